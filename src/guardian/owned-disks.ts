/** The VM's disks as the host that owns them sees them. */
import { open } from "node:fs/promises";
import type { StateFile } from "../disk/state-file.ts";
import type { VmSpec } from "../hypervisor/vm-spec.ts";
import type { ReplicatedDisk } from "./primary-disks.ts";
import type { Ground } from "./vm-process.ts";

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
