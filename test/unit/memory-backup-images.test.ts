import assert from "node:assert/strict";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { PAGE_BYTES } from "../../src/codec/replication.ts";
import { BackupImages, LayoutError } from "../../src/memory/backup-images.ts";
import { Mapping } from "../../src/os/mapping.ts";
import { LAYOUT, pageList } from "./replication-samples.ts";

const RAM_PAGES = 8;
const layout = (ramPages = RAM_PAGES, vramPages = 4) => ({
  ...LAYOUT,
  blocks: [
    { id: 3, name: "vga.vram", bytes: vramPages * PAGE_BYTES },
    { id: 7, name: "pc.ram", bytes: ramPages * PAGE_BYTES },
  ],
});

async function images(t: TestContext): Promise<BackupImages> {
  const directory = mkdtempSync(join(tmpdir(), "remus-images-"));
  const made = await BackupImages.create(
    join(directory, "below", "vm1.ram"),
    "pc.ram",
    RAM_PAGES * PAGE_BYTES,
  );
  t.after(() => {
    made.discard();
    rmSync(directory, { recursive: true });
  });
  return made;
}

const pageOf = (bytes: Uint8Array, number: number) =>
  Buffer.from(bytes.slice(number * PAGE_BYTES, (number + 1) * PAGE_BYTES));
const sourcePage = (list: ReturnType<typeof pageList>, entry: number) =>
  Buffer.from(list.source.slice(list.positions[entry], list.positions[entry]! + PAGE_BYTES));

test("I7: pages land where they belong: RAM in the file, everything else beside it, untouched pages zero", async (t) => {
  const made = await images(t);
  made.begin(layout());
  const list = pageList([
    { raw: true, block: 7, page: 7 },
    { raw: true, block: 3, page: 2 },
    { raw: true, block: 7, page: 0 },
  ]);
  made.write(list);
  const file = readFileSync(made.path);
  assert.equal(file.length, RAM_PAGES * PAGE_BYTES);
  assert.deepEqual(pageOf(file, 7), sourcePage(list, 0));
  assert.deepEqual(pageOf(file, 0), sourcePage(list, 2));
  assert.ok(file.subarray(PAGE_BYTES, 7 * PAGE_BYTES).every((byte) => byte === 0));
  const { header, blocks, side } = made.composition();
  assert.equal(header, LAYOUT.header);
  assert.deepEqual(blocks, layout().blocks);
  assert.deepEqual(
    side.map(({ block }) => block.name),
    ["vga.vram"],
  );
  assert.deepEqual(pageOf(side[0]!.contents, 2), sourcePage(list, 1));
  assert.equal(side[0]!.contents.length, 4 * PAGE_BYTES);
});

test("I7: a page that became zero is zero in the images; of one page in a list the last entry counts", async (t) => {
  const made = await images(t);
  made.begin(layout());
  const both = [
    { raw: true, block: 7, page: 1 },
    { raw: true, block: 3, page: 1 },
  ];
  made.write(pageList(both));
  made.write(pageList(both.map((one) => ({ ...one, raw: false }))));
  assert.ok(readFileSync(made.path).every((byte) => byte === 0));
  assert.ok(made.composition().side[0]!.contents.every((byte) => byte === 0));
  const twice = pageList([
    { raw: false, block: 7, page: 1 },
    { raw: true, block: 7, page: 1 },
    { raw: true, block: 7, page: 2 },
    { raw: false, block: 7, page: 2 },
  ]);
  made.write(twice);
  const file = readFileSync(made.path);
  assert.deepEqual(pageOf(file, 1), sourcePage(twice, 1));
  assert.ok(pageOf(file, 2).every((byte) => byte === 0));
});

test("I7: what an earlier session left in the file does not shine through zero pages of the next", async (t) => {
  const made = await images(t);
  made.begin(layout());
  made.write(pageList([{ raw: true, block: 7, page: 4 }]));
  made.begin(layout());
  made.write(pageList([{ raw: false, block: 7, page: 4 }]));
  assert.ok(readFileSync(made.path).every((byte) => byte === 0));
});

test("a primary with memory of another shape is refused, and the message says which side has what", async (t) => {
  const made = await images(t);
  const other = `the primary's pc.ram has ${9 * PAGE_BYTES} bytes, the RAM image here ${RAM_PAGES * PAGE_BYTES}`;
  assert.throws(() => made.begin(layout(9)), {
    constructor: LayoutError,
    message: `${other}; give both hosts the same vm.memoryMiB and accelerator`,
  });
  const without = { ...layout(), blocks: layout().blocks.slice(0, 1) };
  assert.throws(() => made.begin(without), /pc\.ram has no bytes/);
});

test("I6: memory beside the RAM is bounded before it is allocated", async (t) => {
  const made = await images(t);
  assert.throws(() => made.begin(layout(RAM_PAGES, 2 ** 28)), /beside its RAM; at most 1073741824/);
});

test("nothing can be composed before a session has begun", async (t) => {
  const made = await images(t);
  assert.throws(() => made.composition(), /hold nothing yet/);
});

test("an image of an earlier life is replaced, not reused; discard removes the file", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "remus-images-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "vm1.ram");
  writeFileSync(path, "secrets of another VM");
  const made = await BackupImages.create(path, "pc.ram", PAGE_BYTES);
  assert.ok(readFileSync(path).equals(Buffer.alloc(PAGE_BYTES)));
  made.discard();
  assert.equal(existsSync(path), false);
});

/** A file of `bytes` without space behind it, mapped. */
function sparse(t: TestContext, name: string, bytes: number): { path: string; mapping: Mapping } {
  const directory = mkdtempSync(join(tmpdir(), "remus-images-"));
  const path = join(directory, name);
  writeFileSync(path, "");
  truncateSync(path, bytes);
  const mapping = Mapping.file(path, "write");
  t.after(() => {
    mapping.close();
    rmSync(directory, { recursive: true });
  });
  return { path, mapping };
}

test("I7: pages above 4 GiB land where they belong, in an image of 64 GiB; so do their copies", async (t) => {
  const GIB = 2 ** 30;
  const bytes = 64 * GIB + 2 * PAGE_BYTES;
  const { path, mapping } = sparse(t, "vm1.ram", bytes);
  const made = BackupImages.over(path, "pc.ram", mapping);
  made.begin({ ...LAYOUT, blocks: [{ id: 7, name: "pc.ram", bytes }] });
  const at = [
    0,
    GIB - PAGE_BYTES,
    GIB,
    2 * GIB,
    4 * GIB - PAGE_BYTES,
    4 * GIB,
    4 * GIB + PAGE_BYTES,
    8 * GIB,
  ];
  const offsets = [...at, 33 * GIB - PAGE_BYTES, 64 * GIB - PAGE_BYTES, 64 * GIB, bytes - PAGE_BYTES];
  // All in one list: a page that fills its message whole takes another way through Buffer.copy.
  const list = pageList(offsets.map((offset) => ({ raw: true, block: 7, page: offset / PAGE_BYTES })));
  made.write(list);
  const fd = openSync(path, "r");
  t.after(() => closeSync(fd));
  const inFile = (file: number, offset: number) => {
    const page = Buffer.alloc(PAGE_BYTES);
    readSync(file, page, 0, PAGE_BYTES, offset);
    return page;
  };
  for (const [entry, offset] of offsets.entries())
    assert.ok(inFile(fd, offset).equals(sourcePage(list, entry)), `the page at ${offset}`);
  assert.equal(statSync(path).blocks * 512, offsets.length * PAGE_BYTES, "nothing else was written");

  const copy = sparse(t, "copy.ram", bytes);
  const snapshot = made.beginCopy(copy.mapping.bytes);
  made.write(pageList(offsets.map((offset) => ({ raw: false, block: 7, page: offset / PAGE_BYTES }))));
  assert.ok(snapshot.copyOn(offsets.length));
  const copied = openSync(copy.path, "r");
  t.after(() => closeSync(copied));
  for (const [entry, offset] of offsets.entries()) {
    assert.ok(inFile(copied, offset).equals(sourcePage(list, entry)), `the copy of the page at ${offset}`);
    assert.ok(
      inFile(fd, offset).every((byte) => byte === 0),
      `the page at ${offset} became zero`,
    );
  }
});
