/**
 * The number of the epoch that is running now, shared by all threads of a primary guardian.
 *
 * This cell is the cut. Capture advances it inside the pause; whoever reads output or disk writes of the
 * guest asks for it *after* reading and tags what was read. The guest runs on only after the cell was
 * advanced, so nothing of epoch N+1 can be tagged N. Output of epoch N that is read late is tagged N+1: it
 * waits an epoch longer, which is safe. A disk write may not be tagged too high, for checkpoint N would lack
 * it; it is not, because it is tagged before it is answered, and QEMU drains its disks before the cut.
 */
import type { EpochId } from "../core/words.ts";

export class EpochCell {
  readonly shared: SharedArrayBuffer;
  private readonly word: BigInt64Array;

  constructor(shared: SharedArrayBuffer = new SharedArrayBuffer(16)) {
    this.shared = shared;
    this.word = new BigInt64Array(shared);
  }

  /** The cut is near: QEMU drains the disks, and waits for whatever is not answered yet. */
  get ending(): boolean {
    return Atomics.load(this.word, 1) === 1n;
  }

  end(): void {
    Atomics.store(this.word, 1, 1n);
  }

  get(): EpochId {
    return Number(Atomics.load(this.word, 0));
  }

  set(epoch: EpochId): void {
    Atomics.store(this.word, 0, BigInt(epoch));
    Atomics.store(this.word, 1, 0n);
  }
}
