/**
 * Brings the backup's image of one disk up to date while the VM runs. What the guest writes meanwhile goes to
 * the backup by itself, in order, through the mirror; this brings over the rest.
 *
 * The one danger is to send something older than what the mirror has sent already. So each read notes what
 * the mirror sends while it is under way, and leaves that out. What the mirror has sent before the read is in
 * the source, and so in what is read; what it sends later comes later.
 */
import { DISK_WRITE, DISK_ZERO, type DiskEntry, HASH_BYTES } from "../codec/replication.ts";
import { hashBlocks, type ReadableDisk, zeroExtents } from "./block-hash.ts";
import { aligned, type Extent, strides, subtract, totalBytes, union } from "./extents.ts";

/** How it is found out what differs. */
export type SyncPlan =
  /** The backup's image is all zeroes: everything that is not. */
  | { readonly kind: "blank" }
  /** Nothing is known: blocks are compared by their hashes. */
  | { readonly kind: "compare" }
  | RecordsPlan;

/** `changed` differs; `suspect` may differ, and is compared; all else is equal. */
export interface RecordsPlan {
  readonly kind: "records";
  readonly changed: readonly Extent[];
  readonly suspect: readonly Extent[];
  /**
   * Of an image that is kept in clusters: their size. A power failure may take a new cluster's zeroes and
   * leave the note that it is in use: then something old is where it was not written.
   */
  readonly clusterBytes?: number | undefined;
}

/** Where a sync sends to. */
export interface SyncPeer {
  /** Resolves when more may be sent. Rejects when the backup is gone. */
  room(bytes: number): Promise<void>;
  send(entries: readonly DiskEntry[]): void;
  /** The backup's hashes of `count` blocks. */
  hashes(disk: number, blockBytes: number, offset: number, count: number): Promise<Uint8Array>;
}

export interface SyncProgress {
  /** Bytes to look at, and how many of them have been. */
  readonly totalBytes: number;
  readonly doneBytes: number;
  /** Bytes of content that had to be sent. */
  readonly sentBytes: number;
}

const STRIDE_BYTES = 4 << 20;
const COARSE_BLOCK_BYTES = 64 << 10;
const FINE_BLOCK_BYTES = 4 << 10;
const READ_BYTES = 1 << 20;
/** Strides under way at once. */
const SIDE_BY_SIDE = 4;

interface ReadUnderWay extends Extent {
  readonly overtaken: Extent[];
}

export class DiskSync {
  readonly disk: number;
  private readonly source: ReadableDisk;
  private readonly peer: SyncPeer;
  private readonly underWay = new Set<ReadUnderWay>();
  private stopped = false;
  private counts = { totalBytes: 0, doneBytes: 0, sentBytes: 0 };

  constructor(disk: number, source: ReadableDisk, peer: SyncPeer) {
    this.disk = disk;
    this.source = source;
    this.peer = peer;
  }

  get progress(): SyncProgress {
    return { ...this.counts };
  }

  /** The mirror has sent these bytes of the guest's. */
  overtake(written: Extent): void {
    for (const read of this.underWay)
      if (read.from < written.to && written.from < read.to) read.overtaken.push(written);
  }

  stop(): void {
    this.stopped = true;
  }

  /**
   * Resolves when all that differed has been sent. The mirror must be running. Rejects with the first error,
   * or when stopped.
   */
  async run(plan: SyncPlan): Promise<void> {
    const whole = { from: 0, to: this.source.bytes };
    const end = whole.to;
    if (plan.kind === "blank") await this.each([whole], (stride) => this.copyData(stride));
    if (plan.kind === "compare")
      await this.each([whole], (stride) => this.compare(stride, COARSE_BLOCK_BYTES));
    if (plan.kind !== "records") return;
    const changed = union(plan.changed);
    const suspect = suspects(plan, end).flatMap((one) => subtract(one, changed));
    this.counts.totalBytes = totalBytes(changed) + totalBytes(suspect);
    await this.each(changed, (stride) => this.copy(stride));
    await this.each(suspect, (stride) => this.compare(stride, FINE_BLOCK_BYTES));
  }

  private async each(extents: readonly Extent[], work: (stride: Extent) => Promise<void>): Promise<void> {
    if (this.counts.totalBytes === 0) this.counts.totalBytes = totalBytes(extents);
    const queue = strides(extents, STRIDE_BYTES);
    const worker = async () => {
      for (const stride of queue) {
        this.mayGoOn();
        await work(stride);
        this.counts.doneBytes += stride.to - stride.from;
      }
    };
    try {
      await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker));
    } catch (error) {
      // Those that are under way still are to send nothing more.
      this.stopped = true;
      throw error;
    }
  }

  private mayGoOn(): void {
    if (this.stopped) throw new Error("the sync was stopped");
  }

  private async copyData(stride: Extent): Promise<void> {
    for await (const { zero, ...extent } of zeroExtents(this.source, stride))
      if (!zero) await this.copy(extent);
  }

  /** Sends the blocks whose hashes differ: first of large blocks, then of the small ones in those. */
  private async compare(stride: Extent, blockBytes: number): Promise<void> {
    const count = Math.ceil((stride.to - stride.from) / blockBytes);
    const [ours, theirs] = await Promise.all([
      hashBlocks(this.source, stride, blockBytes),
      this.peer.hashes(this.disk, blockBytes, stride.from, count),
    ]);
    const differing: Extent[] = [];
    for (let block = 0; block < count; block++) {
      const at = block * HASH_BYTES;
      if (Buffer.compare(ours.subarray(at, at + HASH_BYTES), theirs.subarray(at, at + HASH_BYTES)) === 0)
        continue;
      const from = stride.from + block * blockBytes;
      differing.push({ from, to: Math.min(stride.to, from + blockBytes) });
    }
    for (const extent of union(differing))
      if (blockBytes > FINE_BLOCK_BYTES) await this.compare(extent, FINE_BLOCK_BYTES);
      else await this.copy(extent);
  }

  private async copy(extent: Extent): Promise<void> {
    for (const part of strides([extent], READ_BYTES)) {
      await this.peer.room(part.to - part.from);
      this.mayGoOn();
      const read: ReadUnderWay = { ...part, overtaken: [] };
      this.underWay.add(read);
      try {
        const bytes = await this.source.read(part.from, part.to - part.from);
        this.mayGoOn();
        const entries = subtract(part, read.overtaken).flatMap((left) =>
          this.entries(left, bytes.subarray(left.from - part.from, left.to - part.from)),
        );
        // Between the subtraction and this nothing else runs.
        if (entries.length > 0) this.peer.send(entries);
        for (const { kind, length } of entries) if (kind === DISK_WRITE) this.counts.sentBytes += length;
      } finally {
        this.underWay.delete(read);
      }
    }
  }

  /** Runs of zeroes go as such, so that what is sparse stays sparse. */
  private entries(extent: Extent, bytes: Uint8Array): DiskEntry[] {
    const { disk } = this;
    const found: { zero: boolean; from: number; to: number }[] = [];
    for (const { from, to } of strides([extent], FINE_BLOCK_BYTES)) {
      const zero = isZero(bytes.subarray(from - extent.from, to - extent.from));
      const last = found.at(-1);
      if (last?.zero === zero) last.to = to;
      else found.push({ zero, from, to });
    }
    return found.map(({ zero, from, to }) => {
      const place = { disk, offset: from, length: to - from };
      return zero
        ? { ...place, kind: DISK_ZERO }
        : { ...place, kind: DISK_WRITE, data: bytes.subarray(from - extent.from, to - extent.from) };
    });
  }
}

function suspects({ changed, clusterBytes, suspect }: RecordsPlan, end: number): Extent[] {
  const all = clusterBytes === undefined ? suspect : [...suspect, ...changed];
  return union(all.map((one) => aligned(one, Math.max(COARSE_BLOCK_BYTES, clusterBytes ?? 0), end)));
}

const ZEROES = Buffer.alloc(FINE_BLOCK_BYTES);

function isZero(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, ZEROES.subarray(0, bytes.length)) === 0;
}
