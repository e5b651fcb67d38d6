/**
 * The primary's staging: a fixed number of equal chunks of shared memory. Capture fills them, shipping
 * empties them, on two threads. That nothing else holds checkpoint data at the primary is what bounds its
 * memory (I6).
 */

export const CHUNK_BYTES = 1 << 20;

/** What is handed to another thread, to look at the same staging from there. */
export interface SharedStaging {
  readonly data: SharedArrayBuffer;
  /** Word 0 counts chunks ever given back; then one word a chunk: 0 free, 1 taken. */
  readonly words: SharedArrayBuffer;
}

export class Staging {
  readonly shared: SharedStaging;
  readonly chunkCount: number;
  private readonly data: Uint8Array;
  private readonly words: Int32Array;

  constructor(shared: SharedStaging) {
    this.shared = shared;
    this.data = new Uint8Array(shared.data);
    this.words = new Int32Array(shared.words);
    this.chunkCount = this.words.length - 1;
  }

  /** Staging of `bytes`, rounded down to whole chunks, at least two. */
  static ofSize(bytes: number): Staging {
    const count = Math.max(2, Math.floor(bytes / CHUNK_BYTES));
    return new Staging({
      data: new SharedArrayBuffer(count * CHUNK_BYTES),
      words: new SharedArrayBuffer((count + 1) * 4),
    });
  }

  chunk(index: number): Uint8Array {
    return this.data.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES);
  }

  /**
   * Takes a free chunk; blocks this thread while there is none. `stopped` is asked now and then, and ends the
   * wait with -1.
   * @param most chunks that may be taken at a time, if fewer than there are
   */
  take(stopped: () => boolean, most = this.chunkCount): number {
    for (;;) {
      const seen = Atomics.load(this.words, 0);
      for (let index = 0; index < Math.min(most, this.chunkCount); index++)
        if (Atomics.compareExchange(this.words, 1 + index, 0, 1) === 0) return index;
      if (stopped()) return -1;
      Atomics.wait(this.words, 0, seen, 50);
    }
  }

  give(index: number): void {
    Atomics.store(this.words, 1 + index, 0);
    Atomics.add(this.words, 0, 1);
    Atomics.notify(this.words, 0);
  }

  /** Bytes in chunks that are taken now. */
  get takenBytes(): number {
    let taken = 0;
    for (let index = 0; index < this.chunkCount; index++) taken += Atomics.load(this.words, 1 + index);
    return taken * CHUNK_BYTES;
  }
}
