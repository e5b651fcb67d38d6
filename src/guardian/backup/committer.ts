/**
 * Puts whole checkpoints into the backup's images, one after the other (I2). It works in slices, so that a
 * large checkpoint does not keep this process from hearing and sending heartbeats.
 */
import { payloadMemory } from "../../codec/payload-memory.ts";
import type { DiskEntry, PageList } from "../../codec/replication.ts";
import type { EpochId } from "../../core/words.ts";
import type { BackupImages } from "../../memory/backup-images.ts";
import type { WholeCheckpoint } from "../../memory/checkpoint-buffer.ts";

/** PAGES messages written before other events get a turn: 4 MiB, a millisecond or two. */
const MESSAGES_A_SLICE = 4;

/**
 * Where the disk writes of a checkpoint go. False: they could not be written, and that was told elsewhere.
 */
export interface DiskImages {
  apply(entries: readonly DiskEntry[]): Promise<boolean>;
}

export class Committer {
  /** Bytes of checkpoints that are acknowledged and wait for their turn. */
  waitingBytes = 0;
  /** Device state of the newest committed checkpoint. */
  device: Uint8Array = new Uint8Array(0);
  private readonly images: BackupImages;
  private readonly disks: DiskImages | undefined;
  private readonly onCommitted: (epoch: EpochId) => void;
  private readonly onFailed: (error: Error) => void;
  private queue: WholeCheckpoint[] = [];
  private nextSlice: NodeJS.Immediate | undefined;
  /**
   * A checkpoint is being put in: now, in the next slice, or by the disks. Whoever hears of a commit may add
   * the next one before it returns. The images are whole only when it is not.
   */
  busy = false;
  /** The first of the queue could not be put in. It waits for `again`, and those behind it with it. */
  private stuck = false;
  /** Counts what was forgotten: disk writes that are under way then are nobody's any more. */
  private life = 0;

  /**
   * @param disks undefined where the VM has none that are replicated
   * @param onFailed a checkpoint could not be put into the RAM image
   */
  constructor(
    images: BackupImages,
    disks: DiskImages | undefined,
    onCommitted: (epoch: EpochId) => void,
    onFailed: (error: Error) => void,
  ) {
    this.images = images;
    this.disks = disks;
    this.onCommitted = onCommitted;
    this.onFailed = onFailed;
  }

  /** Queues a checkpoint. A small one with nothing before it is in the images when this returns. */
  add(checkpoint: WholeCheckpoint): void {
    this.queue.push(checkpoint);
    this.waitingBytes += checkpoint.bytes;
    if (!this.busy) this.run(0);
  }

  /**
   * Puts the checkpoint in anew that could not be put in, all of it, and then those behind it. What of it is
   * in the images already is the same.
   * @returns whether there was one
   */
  again(): boolean {
    if (!this.stuck) return false;
    this.stuck = false;
    this.run(0);
    return true;
  }

  /** Drops everything that waits; the images are left half-written. */
  forget(): void {
    clearImmediate(this.nextSlice);
    this.nextSlice = undefined;
    this.busy = false;
    this.stuck = false;
    this.life++;
    this.queue = [];
    this.waitingBytes = 0;
  }

  /** Writes from message `from` of the first checkpoint on. */
  private run(from: number): void {
    const { life } = this;
    this.busy = true;
    let next = from;
    let slice = 0;
    for (let first = this.queue[0]; first !== undefined; first = this.queue[0]) {
      while (next < first.pages.length) {
        if (slice++ === MESSAGES_A_SLICE) {
          this.nextSlice = setImmediate(() => this.run(next));
          return;
        }
        if (!this.write(first.pages[next++]!)) return;
      }
      if (this.disks !== undefined) {
        this.putOnDisks(this.disks, first);
        return;
      }
      this.done(first);
      if (life !== this.life) return;
      next = 0;
    }
    this.busy = false;
  }

  private write(pages: PageList): boolean {
    try {
      this.images.write(pages);
      return true;
    } catch (error) {
      this.stuck = true;
      this.onFailed(error as Error);
      return false;
    }
  }

  private putOnDisks(disks: DiskImages, checkpoint: WholeCheckpoint): void {
    const { life } = this;
    void disks.apply(checkpoint.disk).then((applied) => {
      if (life !== this.life) return;
      this.stuck = !applied;
      if (!applied) return;
      this.done(checkpoint);
      if (life === this.life) this.run(0);
    });
  }

  private done({ bytes, device, disk, epoch, pages }: WholeCheckpoint): void {
    this.queue.shift();
    for (const { source } of pages) payloadMemory.giveBack(source);
    for (const { data } of disk) if (data !== undefined) payloadMemory.giveBack(data);
    this.waitingBytes -= bytes;
    this.device = device;
    this.onCommitted(epoch);
  }
}
