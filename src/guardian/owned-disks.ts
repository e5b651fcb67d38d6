/** The VM's disks as the host that owns them sees them. */
import { open } from "node:fs/promises";
import { join } from "node:path";
import { NbdClient } from "../disk/nbd-client.ts";
import type { StateFile } from "../disk/state-file.ts";
import { exportDisk, removeExport, startExports, stopExports } from "../hypervisor/qemu/disks.ts";
import type { Qmp } from "../hypervisor/qemu/qmp.ts";
import type { VmSpec } from "../hypervisor/vm-spec.ts";
import type { Ground } from "./vm-process.ts";

/** A disk of which each host has an image. */
export interface ReplicatedDisk {
  /** Its number in `vm.disks`. */
  readonly disk: number;
  readonly bytes: number;
  /** The image's path. */
  readonly image: string;
}

/** Numbers of the disks that each host has an image of. */
export function replicatedDisks({ disks }: Pick<VmSpec, "disks">): number[] {
  return disks.flatMap(({ storage }, index) => (storage === "replicated" ? [index] : []));
}

/** The same, with their sizes. */
export function ownedDisks(vm: Pick<VmSpec, "disks">, { images }: Ground): ReplicatedDisk[] {
  return replicatedDisks(vm).map((disk) => ({
    disk,
    bytes: images[disk]!.virtualBytes,
    image: vm.disks[disk]!.image,
  }));
}

/**
 * The VM went on here from what lay in this host's memory: what it believes to be on stable storage is put there, while it runs. A flush over an
 * export of QEMU's own does not keep its main loop.
 */
export async function settleImages(qmp: Qmp, disks: readonly number[], runDirectory: string): Promise<void> {
  if (disks.length === 0) return;
  const path = join(runDirectory, "settle-disks.sock");
  await startExports(qmp, path);
  try {
    for (const index of disks) {
      await exportDisk(qmp, { index, writable: false });
      const client = await NbdClient.connect({ path, exportName: `disk${index}` });
      try {
        await client.flush();
      } finally {
        await client.disconnect();
        await removeExport(qmp, index);
      }
    }
  } finally {
    await stopExports(qmp);
  }
}

/**
 * The VM runs on another host now, by plan. What is here is exactly the session's last checkpoint: QEMU wrote nothing after
 * it. That is put on stable storage and noted, so that a resync need not look at more than what the other host changes.
 */
export async function giveAway(vm: Pick<VmSpec, "disks">, record: StateFile, session: string): Promise<void> {
  const owner = record.state;
  if (replicatedDisks(vm).length === 0 || owner === undefined) return;
  for (const disk of replicatedDisks(vm)) {
    const image = await open(vm.disks[disk]!.image, "r+");
    try {
      await image.sync();
    } finally {
      await image.close();
    }
  }
  await record.write({ generation: owner.generation, images: "owner", session, handedOver: true });
}
