/** Hashes of blocks say the same of the same contents, however these lie on a disk. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { HASH_BYTES } from "../../src/codec/replication.ts";
import { hashBlocks, type ReadableDisk, zeroExtents } from "../../src/disk/block-hash.ts";
import type { Extent } from "../../src/disk/extents.ts";

const SECTOR = 512;
/** "base:allocation": a hole that reads as zeroes; zeroes that are allocated. */
const HOLE = 3;
const ZERO = 2;

interface Piece {
  readonly sectors: number;
  readonly what: "data" | "zeroes written" | "zeroes" | "hole";
}

/** A disk of such pieces, which answers block status a few extents at a time and notes what is read. */
function diskOf(pieces: readonly Piece[], extentsAnAnswer: number) {
  const bytes = Buffer.alloc(pieces.reduce((sum, { sectors }) => sum + sectors * SECTOR, 0));
  const extents: { from: number; to: number; flags: number }[] = [];
  let from = 0;
  for (const [i, { sectors, what }] of pieces.entries()) {
    const to = from + sectors * SECTOR;
    if (what === "data") bytes.fill(`data of piece ${i}`, from, to);
    extents.push({ from, to, flags: what === "hole" ? HOLE : what === "zeroes" ? ZERO : 0 });
    from = to;
  }
  const read: Extent[] = [];
  const disk: ReadableDisk = {
    bytes: bytes.length,
    read: async (offset, length) => {
      assert.ok(length > 0 && offset + length <= bytes.length, `read of ${length} at ${offset}`);
      read.push({ from: offset, to: offset + length });
      return Buffer.from(bytes.subarray(offset, offset + length));
    },
    blockStatus: async (offset, length, context) => {
      assert.equal(context, "base:allocation");
      const end = offset + length;
      return (
        extents
          .filter((one) => one.from < end && offset < one.to)
          .slice(0, extentsAnAnswer)
          // NBD lets the last one say more than was asked.
          .map(({ from, to, flags }) => ({ length: to - Math.max(from, offset), flags }))
      );
    },
  };
  return { bytes, disk, read, extents };
}

function plainHashes(bytes: Buffer, { from, to }: Extent, blockBytes: number): Buffer {
  const hashes: Buffer[] = [];
  for (let at = from; at < to; at += blockBytes) {
    const block = bytes.subarray(at, Math.min(to, at + blockBytes));
    hashes.push(createHash("sha256").update(block).digest().subarray(0, HASH_BYTES));
  }
  return Buffer.concat(hashes);
}

const pieces: fc.Arbitrary<Piece[]> = fc.array(
  fc.record({
    sectors: fc.oneof(fc.integer({ min: 1, max: 24 }), fc.integer({ min: 100, max: 2500 })),
    what: fc.constantFrom<Piece["what"]>("data", "zeroes written", "zeroes", "hole"),
  }),
  { minLength: 1, maxLength: 12 },
);

test("a hash is that of the bytes, whether they were read or known to be zero; the last block may be short", async () => {
  await fc.assert(
    fc.asyncProperty(
      pieces,
      fc.constantFrom(512, 4096, 65536, 1 << 20),
      fc.nat({ max: 40 }),
      fc.nat({ max: 40 }),
      fc.integer({ min: 1, max: 3 }),
      async (all, blockBytes, skip, cut, extentsAnAnswer) => {
        const { bytes, disk, read, extents } = diskOf(all, extentsAnAnswer);
        const from = Math.min(skip * SECTOR, bytes.length - SECTOR);
        const to = Math.max(from + SECTOR, bytes.length - cut * SECTOR);
        const hashes = await hashBlocks(disk, { from, to }, blockBytes);
        assert.deepEqual(Buffer.from(hashes), plainHashes(bytes, { from, to }, blockBytes));
        // Blocks in the middle of a hole are not read.
        const holes = extents.filter(({ flags }) => flags !== 0);
        for (let at = from; at < to; at += blockBytes) {
          const end = Math.min(to, at + blockBytes);
          if (holes.some((hole) => hole.from <= at && end <= hole.to))
            assert.ok(!read.some((one) => one.from < end && at < one.to), `the hole at ${at} was read`);
        }
      },
    ),
    { numRuns: 80 },
  );
});

test("extents of zeroes cover what was asked for, in order, however little an answer covers", async () => {
  await fc.assert(
    fc.asyncProperty(pieces, fc.nat({ max: 30 }), fc.nat({ max: 30 }), async (all, skip, cut) => {
      const { bytes, disk } = diskOf(all, 1);
      const from = Math.min(skip * SECTOR, bytes.length - SECTOR);
      const to = Math.max(from + SECTOR, bytes.length - cut * SECTOR);
      let at = from;
      for await (const extent of zeroExtents(disk, { from, to })) {
        assert.equal(extent.from, at);
        assert.ok(extent.to > at && extent.to <= to, `${extent.from} to ${extent.to} of ${from} to ${to}`);
        if (extent.zero) assert.ok(bytes.subarray(at, extent.to).equals(Buffer.alloc(extent.to - at)));
        at = extent.to;
      }
      assert.equal(at, to);
    }),
    { numRuns: 50 },
  );
});

test("what a disk cannot read has no hash", async () => {
  const { disk } = diskOf([{ sectors: 8, what: "data" }], 1);
  const broken = { ...disk, read: () => Promise.reject(new Error("EIO at 0")) };
  await assert.rejects(hashBlocks(broken, { from: 0, to: 4096 }, 4096), /EIO/);
});
