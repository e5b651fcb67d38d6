/**
 * From the ring of the guest's writes to the link. It keeps the order, counts what each epoch has sent, and
 * takes no more out of the ring than the link and, before the first checkpoint, the backup's disks keep up
 * with: so a slow backup slows the guest (I6).
 */
import {
  type DiskEntry,
  type DiskSummary,
  type HashRange,
  HEADER_BYTES,
  MAX_DISK_DATA_BYTES,
  MAX_DISK_ENTRIES,
  type MessageOf,
} from "../../codec/replication.ts";
import { DiskDigest } from "../../codec/replication-checkpoint.ts";
import { encodeDisk, encodeHashAsk } from "../../codec/replication-disk.ts";
import type { Frame } from "../../codec/replication-encode.ts";
import type { FrameIds } from "../../codec/replication-header.ts";
import type { EpochId } from "../../core/words.ts";
import type { SyncPeer } from "../../disk/sync.ts";
import type { WriteRing } from "../../disk/write-ring.ts";
import type { Session } from "../../link/session.ts";

/** Bytes that may wait for the kernel before no more is taken out of the ring. */
const LINK_BYTES = 2 << 20;
/** Bytes of epoch 0 that the backup may have and not have applied. */
const WINDOW_BYTES = 16 << 20;

/** What it needs of the link. */
export interface Sender extends Pick<Session, "bufferedBytes" | "whenBelow"> {
  send(frame: Frame): void;
}

interface Waiting {
  readonly through: number;
  readonly then: () => void;
}

export class DiskShipping implements SyncPeer {
  /** Bytes handed to the link, framing included. */
  bytesOnWire = 0;
  private readonly connection: Sender;
  private readonly ids: FrameIds;
  private readonly ring: WriteRing;
  private readonly onTaken: (entry: DiskEntry) => void;
  private readonly digests = new Map<EpochId, DiskDigest>();
  private waiting: Waiting[] = [];
  private asked: {
    readonly range: HashRange;
    readonly got: (hashes: Uint8Array) => void;
    readonly lost: (error: Error) => void;
  }[] = [];
  private wakeWindow: (() => void)[] = [];
  private sentBeforeEpochs = 0;
  private appliedBytes = 0;
  private pumping = false;
  private abandoned = false;

  /** @param onTaken a write of the guest's is on its way to the backup, after all that were before it */
  constructor(connection: Sender, ids: FrameIds, ring: WriteRing, onTaken: (entry: DiskEntry) => void) {
    this.connection = connection;
    this.ids = ids;
    this.ring = ring;
    this.onTaken = onTaken;
  }

  /**
   * Sends what is in the ring, as far as may be; goes on by itself. To be called when the ring has something.
   */
  pump(): void {
    if (this.pumping) return;
    this.pumping = true;
    void this.run().finally(() => {
      this.pumping = false;
      // Something may have come after the last look.
      if (!this.ring.listen()) setImmediate(() => this.pump());
    });
  }

  /** Calls `then` once everything that is in the ring now has been sent. */
  whenSent(then: () => void): void {
    this.waiting.push({ through: this.ring.published, then });
    this.settle();
    if (this.waiting.length > 0) this.pump();
  }

  /** What the epoch's messages came to. Nothing more of that epoch can come. */
  summary(epoch: EpochId): DiskSummary {
    const digest = this.digests.get(epoch) ?? new DiskDigest();
    this.digests.delete(epoch);
    return digest.summary;
  }

  /** Nobody listens any more: what comes is dropped, so that the guest never waits. */
  abandon(): void {
    this.abandoned = true;
    this.ring.abandon();
    const error = new Error("the backup is gone");
    for (const { lost } of this.asked.splice(0)) lost(error);
    for (const wake of this.wakeWindow.splice(0)) wake();
    this.pump();
  }

  // What the backup says

  /** Bytes of epoch 0 that are in its images. */
  applied(totalBytes: number): void {
    this.appliedBytes = Math.max(this.appliedBytes, totalBytes);
    for (const wake of this.wakeWindow.splice(0)) wake();
  }

  answered({ range, hashes }: MessageOf<"hashes">): void {
    const at = this.asked.findIndex(
      ({ range: asked }) =>
        asked.disk === range.disk &&
        asked.offset === range.offset &&
        asked.blockBytes === range.blockBytes &&
        asked.count === range.count,
    );
    if (at < 0) return;
    this.bytesOnWire += hashes.length;
    this.asked.splice(at, 1)[0]!.got(hashes);
  }

  // For a sync

  async room(): Promise<void> {
    if (this.connection.bufferedBytes > LINK_BYTES) await this.connection.whenBelow(LINK_BYTES / 2);
    await this.window();
    if (this.abandoned) throw new Error("the backup is gone");
  }

  send(entries: readonly DiskEntry[]): void {
    this.ship(0, entries);
  }

  hashes(disk: number, blockBytes: number, offset: number, count: number): Promise<Uint8Array> {
    if (this.abandoned) return Promise.reject(new Error("the backup is gone"));
    const range = { disk, blockBytes, offset, count };
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    this.asked.push({ range, got: resolve, lost: reject });
    const frame = encodeHashAsk(this.ids, range);
    this.bytesOnWire += frame.byteLength;
    this.connection.send(frame);
    return promise;
  }

  private async run(): Promise<void> {
    for (;;) {
      const { entries, epoch } = this.next();
      if (entries.length === 0) return;
      if (!this.abandoned) {
        if (this.connection.bufferedBytes > LINK_BYTES)
          await this.connection.whenBelow(LINK_BYTES / 2).catch(() => {});
        if (epoch === 0) await this.window();
      }
      for (const entry of entries) this.onTaken(entry);
      if (!this.abandoned) this.ship(epoch, entries);
      this.ring.free(entries.length);
      this.settle();
    }
  }

  /** The oldest entries of one epoch that fit into a message. */
  private next(): { readonly entries: readonly DiskEntry[]; readonly epoch: EpochId } {
    const entries: DiskEntry[] = [];
    let bytes = 0;
    let epoch = 0;
    for (;;) {
      const entry = this.ring.peek(entries.length);
      if (entry === undefined || entries.length === MAX_DISK_ENTRIES) break;
      bytes += entry.data?.length ?? 0;
      if (entries.length > 0 && (entry.epoch !== epoch || bytes > MAX_DISK_DATA_BYTES)) break;
      epoch = entry.epoch;
      entries.push(entry);
    }
    return { entries, epoch };
  }

  private ship(epoch: EpochId, entries: readonly DiskEntry[]): void {
    const frame = encodeDisk(this.ids, epoch, entries);
    let digest = this.digests.get(epoch);
    if (digest === undefined) {
      digest = new DiskDigest();
      this.digests.set(epoch, digest);
    }
    digest.add(frame.payloadCrc, entries.length);
    this.bytesOnWire += frame.byteLength;
    if (epoch === 0) this.sentBeforeEpochs += frame.byteLength - HEADER_BYTES;
    this.connection.send(frame);
  }

  /** Waits while the backup has too much of epoch 0 that is not in its images yet. */
  private async window(): Promise<void> {
    while (!this.abandoned && this.sentBeforeEpochs - this.appliedBytes > WINDOW_BYTES)
      await new Promise<void>((wake) => this.wakeWindow.push(wake));
  }

  private settle(): void {
    const { freed } = this.ring;
    const ready = this.waiting.filter(({ through }) => through <= freed);
    if (ready.length === 0) return;
    this.waiting = this.waiting.filter(({ through }) => through > freed);
    for (const { then } of ready) then();
  }
}
