/**
 * The primary's disks in one protection: everything the guest writes is mirrored into the ring and shipped,
 * and what was there before is brought over, while the VM runs. A protection that starts again is a new one.
 */
import { join } from "node:path";
import type { DiskEntry, DiskImage } from "../../codec/replication.ts";
import type { FrameIds } from "../../codec/replication-header.ts";
import type { EpochId } from "../../core/words.ts";
import { DiskEndpoint } from "../../disk/endpoint.ts";
import type { Extent } from "../../disk/extents.ts";
import { NbdClient } from "../../disk/nbd-client.ts";
import { RateLimit } from "../../disk/rate-limit.ts";
import { DiskSync, type SyncPeer, type SyncPlan } from "../../disk/sync.ts";
import { WriteRing } from "../../disk/write-ring.ts";
import {
  exportDisk,
  removeBitmap,
  removeExport,
  replicateDisk,
  setFlushing,
  snapshotBitmap,
  startExports,
  stopExports,
  stopReplicatingDisk,
} from "../../hypervisor/qemu/disks.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import type { Session } from "../../link/session.ts";
import type { EpochCell } from "../../memory/epoch-cell.ts";
import { closeDescriptor } from "../../os/socket.ts";
import type { SyncProgress, SyncSummary } from "../control/status.ts";
import type { Decision, DirtyRecords } from "./dirty-records.ts";
import { DiskShipping } from "./disk-shipping.ts";
import type { ReplicatedDisk } from "./owned-disks.ts";
import { SyncReport } from "./sync-report.ts";
import { WriteIntents } from "./write-intents.ts";

/** The copy of a dirty bitmap that is read while the bitmap goes on. */
export const SNAPSHOT = "remus-sync";

/** Where QEMU serves the disks from while they are brought into step. */
export function exportSocket(runDirectory: string): string {
  return join(runDirectory, "source-disks.sock");
}

export interface PrimaryDisksOptions {
  readonly qemu: QemuProcess;
  readonly runDirectory: string;
  readonly disks: readonly ReplicatedDisk[];
  /** Disks whose flushes need not reach this host's stable storage while two hosts hold them in memory. */
  readonly relaxed: readonly number[];
  readonly ringBytes: number;
  readonly epochCell: EpochCell;
  readonly connection: Session;
  readonly ids: FrameIds;
  /** What the backup's images are. */
  readonly images: readonly DiskImage[];
  readonly records: DirtyRecords;
  /** Where write-intent logs are kept, under the VM's name, of this session. */
  readonly log: { readonly folder: string; readonly vm: string; readonly session: string };
  readonly syncBytesPerSecond: number | undefined;
  readonly onFailed: (reason: string) => void;
  readonly report: (text: string) => void;
}

export class PrimaryDisks {
  readonly shipping: DiskShipping;
  /** Disks that were brought into step. */
  readonly syncs: SyncSummary[] = [];
  private readonly options: PrimaryDisksOptions;
  private readonly ring: WriteRing;
  private endpoint: DiskEndpoint | undefined;
  private intents: WriteIntents | undefined;
  private sync: DiskSync | undefined;
  private syncReport: SyncReport | undefined;
  private failed = false;
  private stopping = false;
  /** Nobody waits for it any more: nothing further begins. */
  private abandoned = false;
  private isRelaxed = false;
  /** The protection is about to end: from here on flushes reach the disk. */
  private hardens = false;
  private flushing: Promise<void> = Promise.resolve();

  constructor(options: PrimaryDisksOptions) {
    this.options = options;
    this.ring = WriteRing.ofSize(options.disks.length === 0 ? 0 : options.ringBytes);
    this.shipping = new DiskShipping(options.connection, options.ids, this.ring, (entry) =>
      this.overtake(entry),
    );
  }

  /** Some write of the guest's may be missing: no checkpoint may be called whole. */
  get broken(): boolean {
    return this.ring.broken || this.failed;
  }

  /** Resolves when both sides are equal, but for what is on its way. The VM runs. */
  async start(): Promise<void> {
    const { disks, epochCell, qemu, runDirectory } = this.options;
    if (disks.length === 0) return;
    this.endpoint = await DiskEndpoint.start({
      disks,
      ring: this.ring,
      epochCell,
      onWritten: () => this.shipping.pump(),
      onGrown: (path, markedBytes) => this.intents?.grown(path, markedBytes),
      onFailed: (reason) => this.fail(reason),
    });
    this.intents = new WriteIntents({
      qemu,
      endpoint: this.endpoint,
      ...this.options.log,
      disks,
      runningEpoch: () => epochCell.get(),
      onFailed: (reason) => this.fail(reason),
    });
    try {
      for (const one of disks) await this.mirror(one, this.endpoint, this.intents);
    } finally {
      this.endpoint.closeDescriptors();
    }
    await this.intents.begun();
    this.shipping.pump();
    this.go();
    const socket = exportSocket(runDirectory);
    await startExports(qemu.qmp, socket);
    try {
      for (const one of disks) await this.bringOver(one, socket);
    } finally {
      await stopExports(qemu.qmp).catch(() => {});
    }
  }

  /** The backup is gone, or need not hear more. The guest must not wait for it. */
  abandon(): void {
    this.abandoned = true;
    this.shipping.abandon();
    this.sync?.stop();
  }

  /**
   * The backup holds everything that this host does: from here on its memory is safe enough for some. The VM
   * runs on meanwhile.
   */
  relax(): void {
    const { qemu, relaxed, report } = this.options;
    if (this.hardens) return;
    this.flushing = (async () => {
      for (const index of relaxed) await setFlushing(qemu.qmp, { index, on: false });
      this.isRelaxed = true;
    })().catch((error: Error) => report(`flushes stay as they are: ${error.message}`));
  }

  /**
   * The backup is gone, or is about to let go of the VM: what two memories held must get to the one disk that
   * is left, before anybody outside can see that it was promised.
   */
  harden(): Promise<void> {
    const { qemu, relaxed, report } = this.options;
    this.hardens = true;
    this.flushing = this.flushing
      .then(async () => {
        if (!this.isRelaxed) return;
        this.isRelaxed = false;
        for (const index of relaxed) await setFlushing(qemu.qmp, { index, on: true });
      })
      .catch((error: Error) => report(`flushes of the VM may not reach the disk: ${error.message}`));
    return this.flushing;
  }

  /** Takes everything out of QEMU again, whatever of it is there. The guest runs on. May be asked again. */
  async stop(): Promise<void> {
    this.stopping = true;
    this.abandon();
    const { disks, qemu } = this.options;
    await this.harden();
    this.intents?.end();
    for (const { disk } of disks) await stopReplicatingDisk(qemu, disk);
    await this.endpoint?.stop();
    await this.intents?.remove();
  }

  /** QEMU is gone: ends the thread. */
  async dispose(): Promise<void> {
    this.stopping = true;
    this.abandon();
    this.intents?.retire();
    await this.endpoint?.stop();
  }

  /** The backup holds everything up to `epoch`. */
  acked(epoch: EpochId): void {
    this.intents?.acked(epoch);
  }

  /** For `status`; undefined when all is in step. */
  get progress(): SyncProgress | undefined {
    return this.syncReport?.now;
  }

  private async mirror(one: ReplicatedDisk, endpoint: DiskEndpoint, intents: WriteIntents): Promise<void> {
    this.go();
    const intentFd = await intents.begin(one);
    const fd = endpoint.descriptors.get(one.disk)!;
    const onFailed = (reason: string) => this.fail(reason);
    try {
      await replicateDisk(this.options.qemu, { index: one.disk, fd, intentFd, onFailed });
    } finally {
      closeDescriptor(intentFd);
    }
  }

  private async bringOver(one: ReplicatedDisk, socket: string): Promise<void> {
    const { images, qemu, records, report, syncBytesPerSecond } = this.options;
    this.go();
    const decision = records.decide(images.find(({ id }) => id === one.disk));
    const { bitmap } = decision;
    const { qmp } = qemu;
    if (bitmap !== undefined) await snapshotBitmap(qmp, { index: one.disk, from: bitmap, to: SNAPSHOT });
    try {
      await exportDisk(qmp, {
        index: one.disk,
        writable: false,
        ...(bitmap === undefined ? {} : { bitmap: SNAPSHOT }),
      });
      const context = `qemu:dirty-bitmap:${SNAPSHOT}`;
      const source = await NbdClient.connect({
        path: socket,
        exportName: `disk${one.disk}`,
        contexts: ["base:allocation", ...(bitmap === undefined ? [] : [context])],
      });
      try {
        const plan = await planOf(decision, source, { context, clusterBytes: one.clusterBytes });
        const limit = new RateLimit(syncBytesPerSecond);
        const sync = new DiskSync(one.disk, source, this.limited(limit));
        this.sync = sync;
        this.syncReport = new SyncReport(one, decision, sync, () => this.shipping.bytesOnWire, report);
        this.go();
        await sync.run(plan);
        this.syncs.push(this.syncReport.end());
      } finally {
        this.syncReport?.stop();
        this.sync = undefined;
        this.syncReport = undefined;
        await source.disconnect();
      }
    } finally {
      await removeExport(qmp, one.disk).catch(() => {});
      if (bitmap !== undefined) await removeBitmap(qmp, { index: one.disk, name: SNAPSHOT }).catch(() => {});
    }
  }

  private go(): void {
    if (this.failed || this.stopping || this.abandoned)
      throw new Error("bringing the disks into step was given up");
  }

  private limited(limit: RateLimit): SyncPeer {
    const { shipping } = this;
    return {
      room: async (bytes) => {
        await limit.take(bytes);
        await shipping.room();
      },
      send: (entries) => shipping.send(entries),
      hashes: (...range) => shipping.hashes(...range),
    };
  }

  private overtake({ disk, offset, length }: DiskEntry): void {
    if (this.sync?.disk === disk) this.sync.overtake({ from: offset, to: offset + length });
  }

  private fail(reason: string): void {
    if (this.stopping || this.failed) return;
    this.failed = true;
    this.sync?.stop();
    this.options.onFailed(reason);
  }
}

async function planOf(
  decision: Decision,
  source: NbdClient,
  { context, clusterBytes }: { readonly context: string; readonly clusterBytes: number | undefined },
): Promise<SyncPlan> {
  if (decision.plan !== "records") return { kind: decision.plan };
  const changed: Extent[] = [];
  let at = 0;
  while (at < source.bytes)
    for (const { length, flags } of await source.blockStatus(at, source.bytes - at, context)) {
      if (flags !== 0) changed.push({ from: at, to: at + length });
      at += length;
    }
  return { kind: "records", changed, suspect: decision.suspect, clusterBytes };
}
