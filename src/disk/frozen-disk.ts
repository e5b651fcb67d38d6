/**
 * A disk image as it was at one instant, while it goes on changing: what is about to be overwritten is put
 * into a store first, and read from there ever after; everything else is read from the image.
 *
 * The one rule that makes it right: a block is marked as kept before the write that changes it begins. So
 * what was read of the image is old if its block is not marked when the reading is over, and is looked up in
 * the store if it is.
 */
import type { FileHandle } from "node:fs/promises";

/** What is kept at once; a multiple of every disk's sectors. The disk's end may lie within the last one. */
export const FROZEN_BLOCK_BYTES = 4096;
const ZEROS = Buffer.alloc(FROZEN_BLOCK_BYTES);

/** The image, as the one who changes it sees it. */
export interface ImageReader {
  readonly bytes: number;
  read(offset: number, length: number): Promise<Buffer>;
}

interface Run {
  readonly from: number;
  readonly to: number;
  readonly kept: boolean;
}

export class FrozenDisk {
  /** What the store takes. */
  keptBytes = 0;
  private readonly image: ImageReader;
  private readonly store: FileHandle;
  /** One bit a block. */
  private readonly marks: Uint8Array;

  /** @param store empty, open for reading and writing; it becomes a sparse file of the disk's size */
  constructor(image: ImageReader, store: FileHandle) {
    this.image = image;
    this.store = store;
    this.marks = new Uint8Array(Math.ceil(image.bytes / FROZEN_BLOCK_BYTES / 8));
  }

  get bytes(): number {
    return this.image.bytes;
  }

  /**
   * To be called, and waited for, before these bytes of the image change. Rejects if they cannot be kept:
   * then nothing more can be read.
   */
  async keep(offset: number, length: number): Promise<void> {
    const from = offset - (offset % FROZEN_BLOCK_BYTES);
    const to = Math.min(this.bytes, Math.ceil((offset + length) / FROZEN_BLOCK_BYTES) * FROZEN_BLOCK_BYTES);
    for (const run of this.runs(from, to)) {
      if (run.kept) continue;
      const old = await this.image.read(run.from, run.to - run.from);
      // What is marked by now may have been read too late.
      for (const still of this.runs(run.from, run.to))
        if (!still.kept) await this.put(still, old.subarray(still.from - run.from, still.to - run.from));
    }
  }

  /** Any bytes of the disk as it was. */
  async read(offset: number, length: number): Promise<Buffer> {
    const result = Buffer.allocUnsafeSlow(length);
    for (const run of this.runs(offset, offset + length)) {
      const into = result.subarray(run.from - offset, run.to - offset);
      if (!run.kept) (await this.image.read(run.from, run.to - run.from)).copy(into);
      for (const { from, kept, to } of this.runs(run.from, run.to))
        if (kept) await this.fetch(from, into.subarray(from - run.from, to - run.from));
    }
    return result;
  }

  /**
   * Marks only when the store has it, so that whoever reads meanwhile reads the image, which is the same
   * still.
   */
  private async put({ from, to }: Run, old: Buffer): Promise<void> {
    for (const piece of filled(old)) {
      await this.write(old.subarray(piece.from, piece.to), from + piece.from);
      this.keptBytes += piece.to - piece.from;
    }
    for (let block = from / FROZEN_BLOCK_BYTES; block * FROZEN_BLOCK_BYTES < to; block++)
      this.marks[Math.floor(block / 8)]! |= 1 << (block % 8);
  }

  private async write(data: Buffer, at: number): Promise<void> {
    for (let done = 0; done < data.length; )
      done += (await this.store.write(data, done, data.length - done, at + done)).bytesWritten;
  }

  /** What was never written to the store is zero. */
  private async fetch(at: number, into: Buffer): Promise<void> {
    for (let done = 0; done < into.length; ) {
      const { bytesRead } = await this.store.read(into, done, into.length - done, at + done);
      if (bytesRead === 0) into.fill(0, done);
      done += bytesRead === 0 ? into.length - done : bytesRead;
    }
  }

  /** [from, to) in pieces that are kept, or not, now. */
  private runs(from: number, to: number): Run[] {
    const found: Run[] = [];
    for (let at = from; at < to; ) {
      const kept = this.isKept(at);
      const start = at;
      while (at < to && this.isKept(at) === kept) at += FROZEN_BLOCK_BYTES - (at % FROZEN_BLOCK_BYTES);
      found.push({ from: start, to: Math.min(at, to), kept });
    }
    return found;
  }

  private isKept(at: number): boolean {
    const block = Math.floor(at / FROZEN_BLOCK_BYTES);
    return ((this.marks[Math.floor(block / 8)]! >> (block % 8)) & 1) === 1;
  }
}

/** Where blocks of `data` are not all zeros. */
function filled(data: Buffer): { from: number; to: number }[] {
  const found: { from: number; to: number }[] = [];
  for (let from = 0; from < data.length; from += FROZEN_BLOCK_BYTES) {
    const to = Math.min(data.length, from + FROZEN_BLOCK_BYTES);
    if (data.compare(ZEROS, 0, to - from, from, to) === 0) continue;
    const last = found.at(-1);
    if (last?.to === from) last.to = to;
    else found.push({ from, to });
  }
  return found;
}
