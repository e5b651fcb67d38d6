import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { PAGE_BYTES } from "../../src/codec/replication.ts";
import { BackupImages, LayoutError } from "../../src/memory/backup-images.ts";
import { LAYOUT, pageList } from "./replication-samples.ts";

const RAM_PAGES = 8;
const layout = (ramPages = RAM_PAGES, vramPages = 4) => ({
  ...LAYOUT,
  blocks: [
    { id: 3, name: "vga.vram", bytes: vramPages * PAGE_BYTES },
    { id: 7, name: "pc.ram", bytes: ramPages * PAGE_BYTES },
  ],
});

function images(t: TestContext): BackupImages {
  const directory = mkdtempSync(join(tmpdir(), "remus-images-"));
  const made = BackupImages.create(join(directory, "below", "vm1.ram"), "pc.ram", RAM_PAGES * PAGE_BYTES);
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

test("I7: pages land where they belong: RAM in the file, everything else beside it, untouched pages zero", (t) => {
  const made = images(t);
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

test("I7: a page that became zero is zero in the images; of one page in a list the last entry counts", (t) => {
  const made = images(t);
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

test("I7: what an earlier session left in the file does not shine through zero pages of the next", (t) => {
  const made = images(t);
  made.begin(layout());
  made.write(pageList([{ raw: true, block: 7, page: 4 }]));
  made.begin(layout());
  made.write(pageList([{ raw: false, block: 7, page: 4 }]));
  assert.ok(readFileSync(made.path).every((byte) => byte === 0));
});

test("a primary with memory of another shape is refused, and the message says which side has what", (t) => {
  const made = images(t);
  const other = `the primary's pc.ram has ${9 * PAGE_BYTES} bytes, the RAM image here ${RAM_PAGES * PAGE_BYTES}`;
  assert.throws(() => made.begin(layout(9)), {
    constructor: LayoutError,
    message: `${other}; give both hosts the same vm.memoryMiB and accelerator`,
  });
  const without = { ...layout(), blocks: layout().blocks.slice(0, 1) };
  assert.throws(() => made.begin(without), /pc\.ram has no bytes/);
});

test("I6: memory beside the RAM is bounded before it is allocated", (t) => {
  const made = images(t);
  assert.throws(() => made.begin(layout(RAM_PAGES, 2 ** 28)), /beside its RAM; at most 1073741824/);
});

test("nothing can be composed before a session has begun", (t) => {
  assert.throws(() => images(t).composition(), /hold nothing yet/);
});

test("an image of an earlier life is replaced, not reused; discard removes the file", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "remus-images-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "vm1.ram");
  writeFileSync(path, "secrets of another VM");
  const made = BackupImages.create(path, "pc.ram", PAGE_BYTES);
  assert.ok(readFileSync(path).equals(Buffer.alloc(PAGE_BYTES)));
  made.discard();
  assert.equal(existsSync(path), false);
});
