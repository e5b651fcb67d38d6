/** The backup's staging: what has come of the checkpoint that is on its way. It becomes a whole checkpoint, or nothing. */
import { type DiskEntry, type MessageOf, type PageList, ProtocolError } from "../codec/replication.ts";
import { CheckpointDigest } from "../codec/replication-checkpoint.ts";
import type { EpochId } from "../core/words.ts";

/** All of one checkpoint, in memory and checked. */
export interface WholeCheckpoint {
  readonly epoch: EpochId;
  /** Empty for checkpoint 0: its pages went into the images as they came. */
  readonly pages: readonly PageList[];
  readonly device: Uint8Array;
  /** In order. Empty for checkpoint 0, likewise. */
  readonly disk: readonly DiskEntry[];
  readonly bytes: number;
}

export class CheckpointBuffer {
  readonly epoch: EpochId;
  private readonly digest: CheckpointDigest;
  private readonly limitBytes: number;
  private readonly pages: PageList[] = [];
  private readonly disk: DiskEntry[] = [];
  private device: Uint8Array = new Uint8Array(0);
  private bytes = 0;

  /** @param limitBytes a checkpoint that needs more memory is refused (I6) */
  constructor(epoch: EpochId, limitBytes: number) {
    this.epoch = epoch;
    this.limitBytes = limitBytes;
    this.digest = new CheckpointDigest(epoch);
  }

  /** Counts pages that are kept elsewhere (first pass). @throws ProtocolError */
  count(message: MessageOf<"pages">): void {
    this.digest.addMessage(message);
  }

  /** Counts and keeps pages. @throws ProtocolError */
  keep(message: MessageOf<"pages">): void {
    this.digest.addMessage(message);
    this.grow(message.pages.source.byteLength);
    this.pages.push(message.pages);
  }

  /** Counts changes of disks that go into the images as they come (epoch 0). @throws ProtocolError */
  countDisk(message: MessageOf<"disk">): void {
    this.digest.addMessage(message);
  }

  /** Counts and keeps changes of disks. @throws ProtocolError */
  keepDisk(message: MessageOf<"disk">): void {
    this.digest.addMessage(message);
    this.grow(message.payloadBytes);
    for (const entry of message.entries) this.disk.push(entry);
  }

  /** @throws ProtocolError */
  addDeviceState(message: MessageOf<"device-state">): void {
    this.digest.addMessage(message);
    const { total, offset, bytes } = message.piece;
    if (offset === 0) {
      this.grow(total);
      this.device = new Uint8Array(total);
    }
    this.device.set(bytes, offset);
  }

  /** The checkpoint, if all of it is here. @throws ProtocolError naming what is missing */
  finish(end: MessageOf<"checkpoint-end">): WholeCheckpoint {
    this.digest.check(end);
    const { epoch, pages, device, disk, bytes } = this;
    return { epoch, pages, device, disk, bytes };
  }

  private grow(bytes: number): void {
    this.bytes += bytes;
    if (this.bytes > this.limitBytes)
      throw new ProtocolError(
        "bad-checkpoint",
        "checkpoint size",
        this.bytes,
        `at most ${this.limitBytes} bytes`,
      );
  }
}
