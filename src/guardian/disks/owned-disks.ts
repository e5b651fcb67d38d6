/** The VM's disks as the host that owns them sees them. */
import { open } from "node:fs/promises";
import { join } from "node:path";
import type { Generation } from "../../core/words.ts";
import { NbdClient } from "../../disk/nbd-client.ts";
import type { StateFile } from "../../disk/state-file.ts";
import { exportDisk, removeExport, startExports, stopExports } from "../../hypervisor/qemu/disks.ts";
import type { Qmp } from "../../hypervisor/qemu/qmp.ts";
import type { VmSpec } from "../../hypervisor/vm-spec.ts";
import type { PrimaryConfig } from "../config/config.ts";
import type { Context } from "../context.ts";
import { OrderRefused } from "../control/refusal.ts";
import type { HostEnvironment } from "../host-environment.ts";
import { persist } from "../persist.ts";
import { Alarm } from "../watch/alarm.ts";

/** A disk of which each host has an image. */
export interface ReplicatedDisk {
  /** Its number in `vm.disks`. */
  readonly disk: number;
  readonly bytes: number;
  /** Of an image that is kept in clusters, on either host: their size. */
  readonly clusterBytes: number | undefined;
  /** The image's path. */
  readonly image: string;
}

/** Numbers of the disks that each host has an image of. */
export function replicatedDisks({ disks }: Pick<VmSpec, "disks">): number[] {
  return disks.flatMap(({ storage }, index) => (storage === "replicated" ? [index] : []));
}

/** What a primary does with them beside protecting them. */
export class OwnedDisks {
  readonly all: readonly ReplicatedDisk[];
  /**
   * Of those, whose flushes need not reach this host's stable storage while two hosts hold them in memory.
   */
  readonly relaxed: readonly number[];
  /** Numbers of those that both hosts see. */
  private readonly shared: readonly number[];
  private readonly record: StateFile;
  private readonly runDirectory: string;
  private readonly alarm: Alarm;
  /** The try to put them on stable storage that was begun last. */
  private settling: Promise<void> = Promise.resolve();
  /** What the VM believes to be on stable storage may be in this host's memory only. */
  private unsettled = false;
  /** Counts notes: one that is tried again must not come after a newer one. */
  private notes = 0;

  constructor({ config, control, log, record }: Context<PrimaryConfig>, { images }: HostEnvironment) {
    const { disks } = config.vm;
    this.record = record;
    this.alarm = new Alarm({ control, log }, "record");
    this.runDirectory = config.runDirectory;
    this.all = replicatedDisks(config.vm).map((disk) => ({
      disk,
      bytes: images[disk]!.virtualBytes,
      clusterBytes: images[disk]!.clusterBytes,
      image: disks[disk]!.image,
    }));
    this.shared = disks.flatMap(({ storage }, index) => (storage === "shared" ? [index] : []));
    this.relaxed = disks.flatMap(({ durability }, index) => (durability === "replicated" ? [index] : []));
  }

  /**
   * Throws if the VM cannot be moved by plan: the standby cannot have an image that QEMU here keeps locked
   * until it ends.
   */
  refuseToMove(): void {
    const [index] = this.shared;
    if (index === undefined) return;
    const text = `vm.disks[${index}] is shared storage, which QEMU here keeps locked until it ends`;
    throw new OrderRefused("shared-disk", `${text}. Only a VM whose disks are all replicated can be moved`);
  }

  /**
   * Notes that the VM and its images are this host's, and the protection in which they are followed: a backup
   * of it may take over.
   * @param wanted whether the VM is to be protected, should this host fail and start again
   */
  async note(generation: Generation, wanted: boolean, session?: string): Promise<void> {
    this.notes++;
    await this.record.write({
      generation,
      images: this.unsettled ? "syncing" : "owner",
      ...(session === undefined ? {} : { session }),
      ...(wanted ? { wanted } : {}),
    });
  }

  /** The VM has ended, and no backup of it is left: the next start need not wait for one. */
  async noteEnded(): Promise<void> {
    const { generation, images, session, wanted } = this.record.state ?? {};
    if (session === undefined) return;
    await this.record.write({
      generation: generation!,
      images: images!,
      ...(wanted === true ? { wanted } : {}),
    });
  }

  /**
   * The same without a session. The VM runs on if it cannot be noted; then that is tried again in the
   * background, until it is, or something newer is noted. Resolves after the first try.
   */
  async noteSoon(generation: Generation, wanted: boolean): Promise<void> {
    let note = 0;
    const attempt = () => {
      const noting = this.note(generation, wanted);
      note = this.notes;
      return noting;
    };
    const newest = () => this.notes === note && (this.record.state?.generation ?? 0) <= generation;
    const failed = await attempt().then(
      () => undefined,
      (error: Error) => error,
    );
    const what = `noting in ${this.record.path} what this host is to the VM`;
    if (failed !== undefined) void persist({ what, attempt, failed, alarm: this.alarm, wanted: newest });
  }

  /**
   * The VM went on here from what lay in this host's memory: what it believes to be on stable storage is put
   * there, while it runs, and only then is it noted that the images are the VM's: a host that fails before
   * has lost a part of them, and must not start from the rest. A flush over an export of QEMU's own does not
   * keep its main loop. What fails is tried again for as long as the VM is here. Resolves when it is done;
   * never rejects.
   */
  async settle(
    qmp: Qmp,
    generation: Generation,
    now: { readonly wanted: () => boolean; readonly here: () => boolean },
  ): Promise<void> {
    this.unsettled = true;
    const once = async () => {
      await this.flush(qmp);
      this.unsettled = false;
      await this.note(generation, now.wanted());
    };
    const attempt = () => {
      this.settling = once();
      return this.settling;
    };
    const what = "putting the VM's disks on stable storage, and noting that they are this host's,";
    await persist({ what, attempt, alarm: this.alarm, wanted: now.here });
  }

  /**
   * Resolves when that is done. @throws OrderRefused if it has failed: a protection would note the disks as
   * something they are not
   */
  async settled(): Promise<void> {
    try {
      await this.settling;
    } catch (error) {
      const why = (error as Error).message;
      throw new OrderRefused(
        "failed",
        `the VM's disks here are not on stable storage yet: ${why}. It is tried again`,
      );
    }
  }

  /**
   * The VM runs on another host now, by plan. What is here is exactly the session's last checkpoint: QEMU
   * wrote nothing after it. That is put on stable storage and noted, so that a resync need not look at more
   * than what the other host changes.
   */
  async giveAway(session: string): Promise<void> {
    const owner = this.record.state;
    if (owner === undefined) return;
    await this.sync();
    await this.record.write({ generation: owner.generation, images: "owner", session, handedOver: true });
  }

  /**
   * QEMU is gone, and has left what it wrote to the kernel: that is put on stable storage.
   * @param clean the guest has ended of itself, so QEMU has closed its images in order: they are the VM's,
   * whole, even if `settle` had no time
   */
  async putAway(generation: Generation, clean: boolean): Promise<void> {
    // A flush that has failed, or that QEMU's end has broken off, is made up for by what follows.
    const settled = await this.settling.then(
      () => true,
      () => false,
    );
    await this.sync();
    const { images, generation: noted } = this.record.state ?? {};
    if (!clean || noted !== generation || (settled && images !== "syncing")) return;
    this.unsettled = false;
    await this.note(generation, true);
  }

  /** What QEMU has given to the kernel is put on stable storage. */
  async sync(): Promise<void> {
    for (const { image } of this.all) {
      const file = await open(image, "r+");
      try {
        await file.sync();
      } finally {
        await file.close();
      }
    }
  }

  private async flush(qmp: Qmp): Promise<void> {
    if (this.all.length === 0) return;
    const path = join(this.runDirectory, "settle-disks.sock");
    await startExports(qmp, path);
    try {
      for (const { disk } of this.all) {
        await exportDisk(qmp, { index: disk, writable: false });
        const client = await NbdClient.connect({ path, exportName: `disk${disk}` });
        try {
          await client.flush();
        } finally {
          await client.disconnect();
          await removeExport(qmp, disk);
        }
      }
    } finally {
      await stopExports(qmp);
    }
  }
}
