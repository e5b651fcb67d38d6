import assert from "node:assert/strict";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import fc from "fast-check";
import { FROZEN_BLOCK_BYTES, FrozenDisk } from "../../src/disk/frozen-disk.ts";

const SECTOR = 512;
/** The disk ends within a block. */
const SECTORS = 5 * (FROZEN_BLOCK_BYTES / SECTOR) + 3;

async function store(t: TestContext) {
  const folder = await mkdtemp(join(tmpdir(), "remus-frozen-"));
  const files: Awaited<ReturnType<typeof open>>[] = [];
  t.after(async () => {
    for (const file of files) await file.close();
    await rm(folder, { recursive: true });
  });
  return async () => {
    const file = await open(join(folder, `store${files.length}`), "wx+");
    files.push(file);
    return file;
  };
}

/**
 * An image whose reads take as many turns as `turns` says, and see what is there at the end of them, or at
 * their beginning.
 */
class SlowImage {
  readonly bytes = SECTORS * SECTOR;
  readonly contents = Buffer.alloc(this.bytes);
  private readonly turns: () => number;

  constructor(turns: () => number) {
    this.turns = turns;
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const early = Buffer.from(this.contents.subarray(offset, offset + length));
    const turns = this.turns();
    for (let turn = 0; turn < turns; turn++) await new Promise(setImmediate);
    return turns % 2 === 0 ? early : Buffer.from(this.contents.subarray(offset, offset + length));
  }
}

const span = fc
  .tuple(fc.nat(SECTORS - 1), fc.integer({ min: 1, max: 2 * (FROZEN_BLOCK_BYTES / SECTOR) }))
  .map(([from, count]) => ({ offset: from * SECTOR, length: Math.min(count, SECTORS - from) * SECTOR }));
const actions = fc.array(
  fc.record({ kind: fc.constantFrom("write" as const, "read" as const), span, value: fc.nat(255) }),
  { maxLength: 20 },
);

test("what is read is the disk at its instant, however writes and reads overlap", async (t) => {
  const fresh = await store(t);
  await fc.assert(
    fc.asyncProperty(actions, fc.array(fc.nat(4), { minLength: 1 }), async (script, turns) => {
      let turn = 0;
      const image = new SlowImage(() => turns[turn++ % turns.length]!);
      // Zeros, too, of which nothing is stored.
      for (let sector = 0; sector < SECTORS; sector++)
        image.contents.fill(sector % 11 < 8 ? sector + 1 : 0, sector * SECTOR, (sector + 1) * SECTOR);
      const before = Buffer.from(image.contents);
      const frozen = new FrozenDisk(image, await fresh());
      const under: Promise<void>[] = [];
      for (const { kind, span, value } of script) {
        const { offset, length } = span;
        under.push(
          kind === "write"
            ? frozen.keep(offset, length).then(() => {
                image.contents.fill(value, offset, offset + length);
              })
            : frozen.read(offset, length).then((data) => {
                assert.deepEqual(data, before.subarray(offset, offset + length));
              }),
        );
        if (value % 2 === 0) await new Promise(setImmediate);
      }
      await Promise.all(under);
      assert.deepEqual(await frozen.read(0, image.bytes), before);
    }),
    { numRuns: 200 },
  );
});

test("blocks of zeros take no room; a block is stored once", async (t) => {
  const image = new SlowImage(() => 0);
  image.contents.fill(7, FROZEN_BLOCK_BYTES);
  const frozen = new FrozenDisk(image, await (await store(t))());
  await frozen.keep(0, FROZEN_BLOCK_BYTES + 1);
  assert.equal(frozen.keptBytes, FROZEN_BLOCK_BYTES);
  await frozen.keep(FROZEN_BLOCK_BYTES, SECTOR);
  assert.equal(frozen.keptBytes, FROZEN_BLOCK_BYTES);
});

test("what cannot be kept is an error, and the image must not be changed on it", async (t) => {
  const image = new SlowImage(() => 0);
  image.contents.fill(7);
  const file = await (await store(t))();
  await file.close();
  await assert.rejects(new FrozenDisk(image, file).keep(0, SECTOR), { code: "EBADF" });
});
