/**
 * In place of `src/memory/staging.ts`: chunks of a few pages, and nobody waits for one while a thread blocks.
 */
import { theWorld } from "../world/present.ts";

export const CHUNK_BYTES = 2 * 4096;
/** Those of as many checkpoints as may be on their way, and of one that is being taken. */
const CHUNKS = 3 * 9;

export class Staging {
  private readonly taken = new Map<number, Uint8Array>();
  private next = 0;

  static ofSize(): Staging {
    return new Staging();
  }

  get takenBytes(): number {
    return this.taken.size * CHUNK_BYTES;
  }

  chunk(index: number): Uint8Array {
    return this.taken.get(index)!;
  }

  take(): number {
    if (this.taken.size >= CHUNKS) theWorld().checker.fail("I6", `${this.taken.size} chunks wait in staging`);
    this.taken.set(this.next, new Uint8Array(CHUNK_BYTES));
    return this.next++;
  }

  give(index: number): void {
    this.taken.delete(index);
  }
}
