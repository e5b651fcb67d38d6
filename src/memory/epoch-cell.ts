/**
 * The number of the epoch that is running now, shared by all threads of a primary guardian.
 *
 * This cell is the cut. Capture advances it inside the pause; whoever reads output or disk writes of the guest asks for it *after*
 * reading and tags what was read. The guest runs on only after the cell was advanced, so nothing of epoch N+1 can be
 * tagged N. Something of epoch N that is read late is tagged N+1: it waits an epoch longer, which is safe.
 */
import type { EpochId } from "../core/words.ts";

export class EpochCell {
  readonly shared: SharedArrayBuffer;
  private readonly word: BigInt64Array;

  constructor(shared: SharedArrayBuffer = new SharedArrayBuffer(8)) {
    this.shared = shared;
    this.word = new BigInt64Array(shared);
  }

  get(): EpochId {
    return Number(Atomics.load(this.word, 0));
  }

  set(epoch: EpochId): void {
    Atomics.store(this.word, 0, BigInt(epoch));
  }
}
