/**
 * Makes whole checkpoints of what comes over the link. What of checkpoint 0 can go into the images at once
 * does: they are no checkpoint yet.
 */
import { payloadMemory } from "../../codec/payload-memory.ts";
import { type MessageOf, ProtocolError, type ReplicationMessage } from "../../codec/replication.ts";
import type { EpochId } from "../../core/words.ts";
import { type BackupImages, LayoutError } from "../../memory/backup-images.ts";
import {
  CheckpointBuffer,
  type CheckpointRoom,
  type WholeCheckpoint,
} from "../../memory/checkpoint-buffer.ts";
import type { BackupDisks } from "../disks/backup-disks.ts";

export interface IntakeOptions {
  readonly images: BackupImages;
  readonly disks: BackupDisks;
  readonly room: CheckpointRoom;
  /** The first pass has begun, and its memory fits. */
  readonly onBegin: () => void;
  readonly onWhole: (checkpoint: WholeCheckpoint) => void;
  /** So many bytes of epoch 0 are in the disks' images. */
  readonly onApplied: (totalBytes: number) => void;
}

export class CheckpointIntake {
  private readonly options: IntakeOptions;
  /**
   * The checkpoint that is on its way, and perhaps the next, whose disk writes come while the pages of the
   * first do.
   */
  private readonly buffers = new Map<EpochId, CheckpointBuffer>();
  private next: EpochId = 0;

  constructor(options: IntakeOptions) {
    this.options = options;
  }

  /** Bytes of what is on its way. */
  get bytes(): number {
    let sum = 0;
    for (const buffer of this.buffers.values()) sum += buffer.bytes;
    return sum;
  }

  /** A session begins, or ended: what has come is dropped. */
  reset(): void {
    this.buffers.clear();
    this.next = 0;
  }

  /** Throws ProtocolError on what does not belong here. */
  take(message: ReplicationMessage): void {
    switch (message.type) {
      case "layout":
        this.begin(message);
        return;
      case "pages":
        this.takePages(message);
        return;
      case "device-state":
        this.buffer(this.next).addDeviceState(message);
        payloadMemory.giveBack(message.piece.bytes);
        return;
      case "disk":
        this.takeDisk(message);
        return;
      case "checkpoint-end": {
        const whole = this.buffer(this.next).finish(message);
        this.buffers.delete(this.next++);
        this.options.onWhole(whole);
        return;
      }
      default:
        return;
    }
  }

  private begin({ layout }: MessageOf<"layout">): void {
    if (this.next > 0)
      throw new ProtocolError("wrong-order", "message", "layout", "one at the start of a session");
    try {
      this.options.images.begin(layout);
      void this.options.disks.firstPass();
      this.options.onBegin();
    } catch (error) {
      if (error instanceof LayoutError)
        throw new ProtocolError("bad-payload", "layout", "not fitting", error.message);
      throw error;
    }
  }

  private takePages(message: MessageOf<"pages">): void {
    const buffer = this.buffer(this.next);
    if (this.next > 0) {
      buffer.keep(message);
      return;
    }
    buffer.count(message);
    this.options.images.write(message.pages);
    payloadMemory.giveBack(message.pages.source);
  }

  private takeDisk(message: MessageOf<"disk">): void {
    const { epoch } = message;
    if (epoch !== this.next && epoch !== this.next + 1)
      throw new ProtocolError("bad-checkpoint", "disk epoch", epoch, `${this.next} or the one after it`);
    const buffer = this.buffer(epoch);
    if (epoch > 0) {
      buffer.keepDisk(message);
      return;
    }
    buffer.countDisk(message);
    const { disks, onApplied } = this.options;
    disks.applyNow(message.entries, message.payloadBytes, () => {
      for (const { data } of message.entries) if (data !== undefined) payloadMemory.giveBack(data);
      onApplied(disks.appliedBytes);
    });
  }

  private buffer(epoch: EpochId): CheckpointBuffer {
    let buffer = this.buffers.get(epoch);
    if (buffer === undefined) {
      buffer = new CheckpointBuffer(epoch, this.options.room);
      this.buffers.set(epoch, buffer);
    }
    return buffer;
  }
}
