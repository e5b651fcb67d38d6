import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { payloadMemory } from "../../src/codec/payload-memory.ts";
import { DISK_WRITE, PAGE_BYTES, PAGE_RAW, type PageList } from "../../src/codec/replication.ts";
import { Committer, type DiskImages } from "../../src/guardian/backup/committer.ts";
import { BackupImages } from "../../src/memory/backup-images.ts";
import { LAYOUT } from "./replication-samples.ts";

const PAGES = 16;

/** One PAGES message that fills page `number` with `fill`. */
const message = (number: number, fill: number): PageList => ({
  count: 1,
  blockIds: Uint16Array.of(0),
  encodings: Uint8Array.of(PAGE_RAW),
  pageNumbers: Uint32Array.of(number),
  positions: Uint32Array.of(0),
  source: new Uint8Array(PAGE_BYTES).fill(fill),
});

/** Checkpoint `epoch`: `count` messages that fill as many pages with its number. */
const checkpoint = (epoch: number, count: number) => ({
  epoch,
  pages: Array.from({ length: count }, (_, number) => message(number, epoch)),
  device: Uint8Array.of(epoch),
  disk: [],
  bytes: count * PAGE_BYTES,
});

async function setUp(t: TestContext, disks?: DiskImages, onCommitted: (epoch: number) => void = () => {}) {
  const directory = mkdtempSync(join(tmpdir(), "remus-committer-"));
  const images = await BackupImages.create(join(directory, "vm1.ram"), "pc.ram", PAGES * PAGE_BYTES);
  images.begin({ ...LAYOUT, blocks: [{ id: 0, name: "pc.ram", bytes: PAGES * PAGE_BYTES }] });
  t.after(() => {
    images.discard();
    rmSync(directory, { recursive: true });
  });
  /** The first byte of each page of the image. */
  const image = () => {
    const file = readFileSync(images.path);
    return Array.from({ length: PAGES }, (_, number) => file[number * PAGE_BYTES]!);
  };
  const committed: { epoch: number; image: number[]; device: number }[] = [];
  const failed: string[] = [];
  const committer: Committer = new Committer(
    images,
    disks,
    (epoch) => {
      committed.push({ epoch, image: image(), device: committer.device[0]! });
      onCommitted(epoch);
    },
    ({ message }) => failed.push(message),
  );
  return { committer, committed, failed, image, images };
}

const filled = (...counts: [count: number, fill: number][]) => {
  const all = counts.flatMap(([count, fill]) => Array.from({ length: count }, () => fill));
  return [...all, ...Array.from({ length: PAGES - all.length }, () => 0)];
};

test("a small checkpoint is in the images when add returns, its device state with it", async (t) => {
  const { committer, committed } = await setUp(t);
  committer.add(checkpoint(0, 0));
  committer.add(checkpoint(1, 4));
  assert.deepEqual(committed, [
    { epoch: 0, image: filled(), device: 0 },
    { epoch: 1, image: filled([4, 1]), device: 1 },
  ]);
  assert.equal(committer.waitingBytes, 0);
});

test("I2: checkpoints are committed whole and in order, however large the ones before them are", async (t) => {
  const { committer, committed } = await setUp(t);
  committer.add(checkpoint(1, 10));
  committer.add(checkpoint(2, 3));
  committer.add(checkpoint(3, 1));
  committer.add(checkpoint(4, 6));
  for (let turn = 0; turn < 100 && committed.length < 4; turn++) await nextTurn();
  assert.deepEqual(committed, [
    { epoch: 1, image: filled([10, 1]), device: 1 },
    { epoch: 2, image: filled([3, 2], [7, 1]), device: 2 },
    { epoch: 3, image: filled([1, 3], [2, 2], [7, 1]), device: 3 },
    { epoch: 4, image: filled([6, 4], [4, 1]), device: 4 },
  ]);
});

test("a large checkpoint is written in slices, so that heartbeats get their turn in between", async (t) => {
  const { committer, committed, image } = await setUp(t);
  committer.add(checkpoint(5, 10));
  assert.deepEqual(image(), filled([4, 5]), "four messages at once");
  assert.deepEqual(committed, []);
  assert.equal(committer.waitingBytes, 10 * PAGE_BYTES);
  let turns = 0;
  for (; turns < 100 && committed.length === 0; turns++) await nextTurn();
  assert.ok(turns >= 2, `done after ${turns} turns`);
  assert.equal(committer.waitingBytes, 0);
});

test("I2: what is forgotten is never committed, and the next session's checkpoints are", async (t) => {
  const { committer, committed } = await setUp(t);
  committer.add(checkpoint(8, 10));
  committer.add(checkpoint(9, 1));
  committer.forget();
  assert.equal(committer.waitingBytes, 0);
  for (let turn = 0; turn < 5; turn++) await nextTurn();
  assert.deepEqual(committed, []);
  committer.add(checkpoint(0, 2));
  assert.deepEqual(
    committed.map(({ epoch }) => epoch),
    [0],
  );
});

test("I2: memory and disks commit as one: the next checkpoint waits until the disks have this one", async (t) => {
  const applied: number[] = [];
  const under: (() => void)[] = [];
  const disks: DiskImages = {
    apply: (entries) =>
      new Promise((resolve) => {
        under.push(() => {
          applied.push(...entries.map(({ offset }) => offset));
          resolve(true);
        });
      }),
  };
  const { committer, committed, image } = await setUp(t, disks);
  const entry = (offset: number) => ({ disk: 0, kind: 1, offset, length: 512 }) as const;
  committer.add({ ...checkpoint(1, 2), disk: [entry(1), entry(2)] });
  committer.add({ ...checkpoint(2, 1), disk: [entry(3)] });
  await nextTurn();
  assert.deepEqual([committed, image()], [[], filled([2, 1])], "the second one's pages wait");
  under.shift()!();
  await nextTurn();
  assert.deepEqual(
    committed.map(({ epoch }) => epoch),
    [1],
  );
  assert.deepEqual([applied, image()], [[1, 2], filled([1, 2], [1, 1])]);
  committer.forget();
  under.shift()!();
  await nextTurn();
  assert.equal(committed.length, 1, "what was forgotten while the disks had it is not committed");
  committer.add({ ...checkpoint(0, 1), disk: [] });
  under.shift()!();
  await nextTurn();
  assert.deepEqual(committed.at(-1)?.epoch, 0);
});

test("disks that failed: nothing is committed any more", async (t) => {
  const { committer, committed } = await setUp(t, { apply: () => Promise.resolve(false) });
  committer.add({ ...checkpoint(1, 1), disk: [] });
  committer.add({ ...checkpoint(2, 1), disk: [] });
  for (let turn = 0; turn < 5; turn++) await nextTurn();
  assert.deepEqual(committed, []);
});

test("I4: a checkpoint that the disks did not take is put in anew, and those behind it; each is committed once", async (t) => {
  let full = true;
  const given: number[] = [];
  const disks: DiskImages = {
    apply: async (entries) => {
      given.push(...entries.map(({ offset }) => offset));
      return !full;
    },
  };
  const { committer, committed } = await setUp(t, disks);
  const entry = (offset: number) => ({ disk: 0, kind: 1, offset, length: 512 }) as const;
  committer.add({ ...checkpoint(1, 2), disk: [entry(1), entry(2)] });
  committer.add({ ...checkpoint(2, 1), disk: [entry(3)] });
  assert.equal(committer.again(), false, "it is under way");
  await nextTurn();
  assert.equal(committer.again(), true);
  await nextTurn();
  assert.deepEqual([given, committed], [[1, 2, 1, 2], []]);
  full = false;
  assert.equal(committer.again(), true);
  await nextTurn();
  assert.deepEqual(given, [1, 2, 1, 2, 1, 2, 3]);
  assert.deepEqual(
    committed.map(({ epoch }) => epoch),
    [1, 2],
  );
  assert.equal(committer.again(), false);
});

test("an error in a later slice is told, and does not leave the checkpoint for ever in the midst", async (t) => {
  const { committer, committed, failed, images } = await setUp(t);
  const write = t.mock.method(images, "write", () => {
    throw new Error("no such page");
  });
  write.mock.mockImplementationOnce(() => {}, 0);
  committer.add(checkpoint(1, 10));
  for (let turn = 0; turn < 5; turn++) await nextTurn();
  assert.deepEqual([failed, committed], [["no such page"], []]);
  write.mock.restore();
  committer.again();
  for (let turn = 0; turn < 5; turn++) await nextTurn();
  assert.deepEqual(
    committed.map(({ epoch, image }) => [epoch, image]),
    [[1, filled([10, 1])]],
  );
});

for (const disks of [undefined, { apply: () => Promise.resolve(true) }])
  test(`I2: whoever hears of a commit may add the next one at once; each is committed once (${disks ? "with" : "without"} disks)`, async (t) => {
    const { committer, committed } = await setUp(t, disks, (epoch) => {
      if (epoch < 8) committer.add(checkpoint(epoch + 2, epoch % 3 === 0 ? 6 : 1));
    });
    committer.add(checkpoint(0, 6));
    committer.add(checkpoint(1, 6));
    for (let turn = 0; turn < 100 && committed.length < 10; turn++) await nextTurn();
    assert.deepEqual(
      committed.map(({ epoch }) => epoch),
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    );
  });

test("a payload's memory is given back when its checkpoint is committed, disk writes and all, and not before (I2)", async (t) => {
  const applied = Promise.withResolvers<boolean>();
  const { committer } = await setUp(t, { apply: () => applied.promise });
  const bytes = 128 << 10;
  const [source, data] = [payloadMemory.take(bytes), payloadMemory.take(bytes)];
  const whole = {
    ...checkpoint(1, 0),
    pages: [{ ...message(0, 1), source: source.fill(1) }],
    disk: [{ disk: 0, kind: DISK_WRITE, offset: 0, length: 512, data: data.subarray(0, 512) } as const],
  };
  const idle = payloadMemory.idleBytes;
  committer.add(whole);
  for (let turn = 0; turn < 10; turn++) await nextTurn();
  assert.equal(payloadMemory.idleBytes, idle, "the disk still reads from it");
  applied.resolve(true);
  await nextTurn();
  assert.equal(payloadMemory.idleBytes, idle + 2 * bytes);
});

test("what could not be written is not given back", async (t) => {
  const { committer } = await setUp(t, { apply: async () => false });
  const source = payloadMemory.take(128 << 10);
  const idle = payloadMemory.idleBytes;
  committer.add({ ...checkpoint(1, 0), pages: [{ ...message(0, 1), source }] });
  for (let turn = 0; turn < 10; turn++) await nextTurn();
  assert.equal(payloadMemory.idleBytes, idle);
});
