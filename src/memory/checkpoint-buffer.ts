/**
 * The backup's staging: what has come of the checkpoint that is on its way. It becomes a whole checkpoint, or
 * nothing.
 */
import type { DiskEntry, MessageOf, PageList } from "../codec/replication.ts";
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

/** What has come needs more memory than this backup may use for it. */
export class CheckpointTooLarge extends Error {}

export interface CheckpointRoom {
  /** The most that one checkpoint may take. */
  readonly limitBytes: number;
  /** What all checkpoints that are not in the images yet may still take, together. */
  readonly leftBytes: () => number;
}

export class CheckpointBuffer {
  readonly epoch: EpochId;
  private readonly digest: CheckpointDigest;
  private readonly room: CheckpointRoom;
  private readonly pages: PageList[] = [];
  private readonly disk: DiskEntry[] = [];
  private device: Uint8Array = new Uint8Array(0);
  private taken = 0;

  /** @param room a checkpoint that needs more memory is refused with `CheckpointTooLarge` (I6) */
  constructor(epoch: EpochId, room: CheckpointRoom) {
    this.epoch = epoch;
    this.room = room;
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
    const { epoch, pages, device, disk, taken: bytes } = this;
    return { epoch, pages, device, disk, bytes };
  }

  /** Bytes of memory that it takes by now. */
  get bytes(): number {
    return this.taken;
  }

  private grow(bytes: number): void {
    const { leftBytes, limitBytes } = this.room;
    this.taken += bytes;
    if (this.taken > limitBytes)
      throw new CheckpointTooLarge(
        `checkpoint ${this.epoch} has more than the ${limitBytes} bytes that limits.checkpointMiB allows here; raise it`,
      );
    if (leftBytes() < 0)
      throw new CheckpointTooLarge(
        `checkpoints that are not in the images yet need more memory than is reckoned with here; give both hosts the same limits.stagingMiB and limits.diskMiB`,
      );
  }
}
