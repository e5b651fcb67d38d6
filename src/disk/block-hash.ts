/** Hashes of a disk's blocks, by which two hosts find out where their images differ without sending them. */
import { hash } from "node:crypto";
import { HASH_BYTES } from "../codec/replication.ts";
import type { Extent } from "./extents.ts";

/** What is needed of a disk to compare it. `NbdClient` is one. */
export interface ReadableDisk {
  readonly bytes: number;
  read(offset: number, length: number): Promise<Uint8Array>;
  /** Extents of a metadata context, in order, from `offset` on; they may cover less than was asked for. */
  blockStatus(
    offset: number,
    length: number,
    context: string,
  ): Promise<readonly { length: number; flags: number }[]>;
}

/** Bit of "base:allocation" (NBD): the extent reads as zeroes. */
const STATE_ZERO = 2;
/** Blocks hashed before other events get a turn: a millisecond or so. */
const BYTES_A_TURN = 1 << 20;

export async function* zeroExtents(
  disk: ReadableDisk,
  { from, to }: Extent,
): AsyncGenerator<Extent & { readonly zero: boolean }> {
  for (let at = from; at < to; ) {
    for (const { length, flags } of await disk.blockStatus(at, to - at, "base:allocation")) {
      const end = Math.min(to, at + length);
      if (end > at) yield { from: at, to: end, zero: (flags & STATE_ZERO) !== 0 };
      at = end;
    }
  }
}

/**
 * One hash a block of `blockBytes`, from `from` on; the last block may be cut short by the end of the disk.
 * Holes are not read.
 */
export async function hashBlocks(
  disk: ReadableDisk,
  { from, to }: Extent,
  blockBytes: number,
): Promise<Uint8Array> {
  const hashes = new Uint8Array(Math.ceil((to - from) / blockBytes) * HASH_BYTES);
  const holes: Extent[] = [];
  for await (const { zero, ...extent } of zeroExtents(disk, { from, to })) if (zero) holes.push(extent);
  const isHole = (block: Extent) => holes.some((hole) => hole.from <= block.from && block.to <= hole.to);
  for (let at = from; at < to; ) {
    const run: Extent[] = [];
    for (; at < to && run.length * blockBytes < BYTES_A_TURN; at += blockBytes) {
      const block = { from: at, to: Math.min(to, at + blockBytes) };
      if (isHole(block)) hashes.set(zeroHash(block.to - block.from), ((at - from) / blockBytes) * HASH_BYTES);
      else if (run.length > 0 && run.at(-1)!.to !== at) break;
      else run.push(block);
    }
    if (run.length === 0) continue;
    const first = run[0]!.from;
    const bytes = await disk.read(first, run.at(-1)!.to - first);
    for (const block of run)
      hashes.set(
        hashOf(bytes.subarray(block.from - first, block.to - first)),
        ((block.from - from) / blockBytes) * HASH_BYTES,
      );
    await new Promise((turn) => setImmediate(turn));
  }
  return hashes;
}

const zeroHashes = new Map<number, Uint8Array>();

function zeroHash(length: number): Uint8Array {
  let known = zeroHashes.get(length);
  if (known === undefined) {
    known = hashOf(new Uint8Array(length));
    zeroHashes.set(length, known);
  }
  return known;
}

/** SHA-256, cut to 128 bits. */
function hashOf(bytes: Uint8Array): Uint8Array {
  return hash("sha256", bytes, "buffer").subarray(0, HASH_BYTES);
}
