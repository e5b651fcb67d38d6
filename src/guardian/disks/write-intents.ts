/**
 * The write-intent logs of one protection. While it lasts, whatever the VM changes on a disk stands in a log
 * first. Should this host crash, the log tells where its images may differ from the backup's last checkpoint:
 * by what was written after that, or by what never got from the host's memory to the disk.
 *
 * A log that has grown gives way to a new one. The old one is needed until everything that was written before
 * the change of logs is both on stable storage here and acknowledged there.
 */
import { open, rm } from "node:fs/promises";
import type { EpochId } from "../../core/words.ts";
import type { DiskEndpoint } from "../../disk/endpoint.ts";
import { newLogPath, removeIntents } from "../../disk/intent-log.ts";
import { renewIntent } from "../../hypervisor/qemu/disks.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import { closeDescriptor } from "../../os/socket.ts";
import type { ReplicatedDisk } from "./owned-disks.ts";

/** A log that names more of its disk gives way: so much, or this share of a large disk. */
const LARGE_BYTES = 64 << 20;
const LARGE_SHARE = 1 / 64;

export interface WriteIntentsOptions {
  readonly qemu: QemuProcess;
  readonly endpoint: DiskEndpoint;
  /** Where the logs lie. */
  readonly folder: string;
  /** The VM's name. */
  readonly vm: string;
  readonly session: string;
  readonly disks: readonly ReplicatedDisk[];
  readonly runningEpoch: () => EpochId;
  readonly onFailed: (reason: string) => void;
}

interface Log {
  readonly disk: ReplicatedDisk;
  readonly path: string;
}

export class WriteIntents {
  private readonly options: WriteIntentsOptions;
  private current: Log[] = [];
  /** Logs that gave way, and the epoch that ran when they had. */
  private old: { readonly path: string; readonly epoch: EpochId }[] = [];
  private renewing: Promise<void> | undefined;
  /** Logs of earlier protections are gone. */
  private hasBegun = false;
  private ended = false;

  constructor(options: WriteIntentsOptions) {
    this.options = options;
  }

  /** Begins a log of a disk. Resolves with QEMU's end; the caller hands it over and closes it. */
  async begin(disk: ReplicatedDisk): Promise<number> {
    const { folder, vm } = this.options;
    const path = await newLogPath(folder, vm, disk.disk);
    const fd = await this.log({ disk, path });
    this.current.push({ disk, path });
    return fd;
  }

  /**
   * QEMU announces all changes now. What was written before is put on stable storage, and logs of earlier
   * protections go.
   */
  async begun(): Promise<void> {
    const { folder, vm } = this.options;
    for (const { disk, path } of this.current) {
      await syncImage(disk.image);
      await removeIntents(folder, vm, disk.disk, [path]);
    }
    this.hasBegun = true;
  }

  /** To be called when a log has grown. */
  grown(path: string, markedBytes: number): void {
    const log = this.current.find((one) => one.path === path);
    // A log that was begun while the old ones are removed would be taken for one of them.
    if (log === undefined || !this.hasBegun || this.ended || this.renewing !== undefined) return;
    if (markedBytes < Math.max(LARGE_BYTES, log.disk.bytes * LARGE_SHARE)) return;
    this.renewing = this.renew(log)
      .catch((error: Error) => {
        if (!this.ended)
          this.options.onFailed(`the write-intent log of disk${log.disk.disk}: ${error.message}`);
      })
      .finally(() => {
        this.renewing = undefined;
      });
  }

  /** The backup holds everything up to `epoch`. */
  acked(epoch: EpochId): void {
    const done = this.old.filter((one) => one.epoch <= epoch);
    if (done.length === 0) return;
    this.old = this.old.filter((one) => one.epoch > epoch);
    // Should the removal fail, the log names more than need be, which costs time and nothing else.
    for (const { path } of done) void rm(path, { force: true }).catch(() => {});
  }

  /** QEMU is about to let go of all logs, the protection being over: nothing needs them any more. */
  end(): void {
    this.retire();
  }

  /** QEMU has let go of them. */
  async remove(): Promise<void> {
    await this.renewing;
    const { disks, folder, vm } = this.options;
    for (const { disk } of disks) await removeIntents(folder, vm, disk);
  }

  /** The VM is gone from here: the logs stay. */
  retire(): void {
    this.ended = true;
    for (const { path } of this.current) this.options.endpoint.retire(path);
  }

  private async renew(before: Log): Promise<void> {
    const { endpoint, folder, qemu, runningEpoch, vm } = this.options;
    const { disk } = before;
    const path = await newLogPath(folder, vm, disk.disk);
    const fd = await this.log({ disk, path });
    try {
      // QEMU flushes at the change of logs, with the VM waiting: let there be little left to flush.
      await syncImage(disk.image);
      endpoint.retire(before.path);
      await renewIntent(qemu, disk.disk, fd);
    } finally {
      closeDescriptor(fd);
    }
    const epoch = runningEpoch();
    this.current = [...this.current.filter((one) => one !== before), { disk, path }];
    await syncImage(disk.image);
    this.old.push({ path: before.path, epoch });
  }

  private log({ disk, path }: Log): Promise<number> {
    const { endpoint, session } = this.options;
    return endpoint.log({ disk: disk.disk, bytes: disk.bytes, path, session });
  }
}

/** Puts all of an image that the kernel holds on stable storage. */
async function syncImage(path: string): Promise<void> {
  const file = await open(path, "r");
  try {
    await file.datasync();
  } finally {
    await file.close();
  }
}
