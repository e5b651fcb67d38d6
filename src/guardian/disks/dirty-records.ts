/**
 * What this host's QEMU has noted of the disks' changes, and what that is worth to a backup that comes back
 * with an old image. QEMU keeps the notes, in dirty bitmaps, so no write is missed; here is kept from when on
 * each one counts.
 */
import type { DiskImage } from "../../codec/replication.ts";
import { type Baseline, countsNow, resyncWay } from "../../core/resync.ts";
import type { EpochId } from "../../core/words.ts";
import type { Extent } from "../../disk/extents.ts";
import { addBitmap, removeBitmap } from "../../hypervisor/qemu/disks.ts";
import type { Qmp } from "../../hypervisor/qemu/qmp.ts";

/** Notes what the VM changes from the moment it runs here after a failover or switchover. */
export const soloBitmap = "remus-solo";
/** A new bitmap is begun at most this often. */
const RENEW_EVERY_MS = 10_000;

/** How a disk will be brought up to date, and why so. */
export interface Decision {
  readonly plan: "blank" | "compare" | "records";
  readonly bitmap?: string;
  readonly suspect: readonly Extent[];
  readonly why: string;
}

export class DirtyRecords {
  private readonly qmp: Qmp;
  private readonly disks: readonly number[];
  private baseline: Baseline | undefined;
  /**
   * Began during the present session; becomes the baseline once the backup has everything before it on stable
   * storage.
   */
  private next: Baseline | undefined;
  private renewedMs = Number.NEGATIVE_INFINITY;
  private counter = 0;
  private working: Promise<void> = Promise.resolve();

  /** @param takenOver the session from whose checkpoint `epoch` the VM went on here, if it did */
  constructor(
    qmp: Qmp,
    disks: readonly number[],
    takenOver?: { readonly session: string | undefined; readonly epoch: EpochId },
  ) {
    this.qmp = qmp;
    this.disks = disks;
    if (takenOver?.session !== undefined)
      this.baseline = { session: takenOver.session, since: takenOver.epoch, bitmap: soloBitmap };
  }

  /** What to do about an image that the backup has. */
  decide(image: DiskImage | undefined): Decision {
    const suspect = (image?.suspects ?? []).map(([offset, length]) => ({
      from: offset,
      to: offset + length,
    }));
    const way = resyncWay(image, this.baseline);
    return { ...way, suspect: way.plan === "records" ? suspect : [] };
  }

  /** Begins new notes now and then. @param running tells the running epoch */
  renew(session: string, running: () => EpochId): void {
    const now = performance.now();
    if (this.disks.length === 0 || this.next?.session === session || now - this.renewedMs < RENEW_EVERY_MS)
      return;
    this.renewedMs = now;
    const bitmap = `remus-${++this.counter}`;
    this.inTurn(async () => {
      for (const index of this.disks) await addBitmap(this.qmp, { index, name: bitmap });
      // Asked only now: a write of an epoch before this one may be older than the bitmap.
      const old = this.next?.bitmap;
      this.next = { session, since: running(), bitmap };
      if (old !== undefined) await this.remove(old);
    });
  }

  /** The backup has everything up to `epoch` of the session on stable storage. */
  durable(session: string, epoch: EpochId): void {
    const { next } = this;
    if (next === undefined || !countsNow(next, session, epoch)) return;
    const old = this.baseline;
    this.baseline = next;
    this.next = undefined;
    if (old !== undefined) this.inTurn(() => this.remove(old.bitmap));
  }

  private async remove(bitmap: string): Promise<void> {
    for (const index of this.disks) await removeBitmap(this.qmp, { index, name: bitmap });
  }

  /** Without bitmaps a resync is slower, not wrong: what failed to be made must not be counted on. */
  private inTurn(work: () => Promise<void>): void {
    this.working = this.working.then(work).catch(() => {
      this.baseline = undefined;
      this.next = undefined;
    });
  }
}
