/**
 * Puts whole checkpoints into the backup's images, one after the other (I2). It works in slices, so that a large checkpoint does not
 * keep this process from hearing and sending heartbeats.
 */
import type { EpochId } from "../core/words.ts";
import type { BackupImages } from "../memory/backup-images.ts";
import type { WholeCheckpoint } from "../memory/checkpoint-buffer.ts";

/** PAGES messages written before other events get a turn: 4 MiB, a millisecond or two. */
const MESSAGES_A_SLICE = 4;

export class Committer {
  /** Bytes of checkpoints that are acknowledged and wait for their turn. */
  waitingBytes = 0;
  /** Device state of the newest committed checkpoint. */
  device: Uint8Array = new Uint8Array(0);
  private readonly images: BackupImages;
  private readonly onCommitted: (epoch: EpochId) => void;
  private queue: WholeCheckpoint[] = [];
  private nextSlice: NodeJS.Immediate | undefined;

  constructor(images: BackupImages, onCommitted: (epoch: EpochId) => void) {
    this.images = images;
    this.onCommitted = onCommitted;
  }

  /** Queues a checkpoint. A small one with nothing before it is in the images when this returns. */
  add(checkpoint: WholeCheckpoint): void {
    this.queue.push(checkpoint);
    this.waitingBytes += checkpoint.bytes;
    if (this.nextSlice === undefined) this.run(0);
  }

  /** Drops everything that waits; the images are left half-written. */
  forget(): void {
    clearImmediate(this.nextSlice);
    this.nextSlice = undefined;
    this.queue = [];
    this.waitingBytes = 0;
  }

  /** Writes from message `from` of the first checkpoint on. */
  private run(from: number): void {
    this.nextSlice = undefined;
    let next = from;
    let slice = 0;
    for (let first = this.queue[0]; first !== undefined; first = this.queue[0]) {
      while (next < first.pages.length) {
        if (slice++ === MESSAGES_A_SLICE) {
          this.nextSlice = setImmediate(() => this.run(next));
          return;
        }
        this.images.write(first.pages[next++]!);
      }
      this.queue.shift();
      this.waitingBytes -= first.bytes;
      this.device = first.device;
      this.onCommitted(first.epoch);
      next = 0;
    }
  }
}
