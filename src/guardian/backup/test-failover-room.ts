/** Whether this host has room for a clone of the VM beside what protects it, which comes first. */
import { statfs } from "node:fs/promises";
import { directory, memAvailableMiB } from "../../hypervisor/qemu/host-facts.ts";
import { QEMU_MIB } from "../../hypervisor/qemu/preflight.ts";

const MIB = 2 ** 20;
/**
 * Of the file system that holds what the clone's disks take, so much stays free: the VM's own images may lie
 * there, too.
 */
const RESERVE = { share: 0.05, mostMiB: 1024 };

export interface RoomQuestion {
  readonly ramMiB: number;
  /** Where the copy of the RAM goes. */
  readonly imageDirectory: string;
  /** Where the clone's disks go; undefined if it has none. */
  readonly diskFolder: string | undefined;
}

/** A sentence that says what is missing; undefined if nothing is. */
export async function whyNoRoom({
  diskFolder,
  imageDirectory,
  ramMiB,
}: RoomQuestion): Promise<string | undefined> {
  const [place, availableMiB] = await Promise.all([directory(imageDirectory), memAvailableMiB()]);
  const neededMiB = QEMU_MIB + (place.inMemory ? ramMiB : 0);
  if (availableMiB < neededMiB)
    return `a clone needs ${neededMiB} MiB of memory, and ${availableMiB} MiB are available; free some`;
  if (place.freeMiB < ramMiB)
    return `the copy of the RAM needs ${ramMiB} MiB in ${imageDirectory}, and ${place.freeMiB} MiB are free there; free some, or make it larger`;
  if (diskFolder === undefined) return undefined;
  const { freeMiB, reserveMiB } = await diskRoom(diskFolder);
  if (freeMiB > 2 * reserveMiB) return undefined;
  return `what a clone's disks take goes to ${diskFolder}, where ${freeMiB} MiB are free; ${2 * reserveMiB} MiB are needed to begin with; free some`;
}

/** Whether a clone that runs must go, since its disks take too much. A sentence. */
export async function whyDiskFull(diskFolder: string): Promise<string | undefined> {
  const { freeMiB, reserveMiB } = await diskRoom(diskFolder);
  if (freeMiB > reserveMiB) return undefined;
  return `only ${freeMiB} MiB are free in ${diskFolder}, and ${reserveMiB} MiB are to stay free for the VM itself`;
}

async function diskRoom(folder: string): Promise<{ freeMiB: number; reserveMiB: number }> {
  const { bavail, blocks, bsize } = await statfs(folder);
  const sizeMiB = (blocks * bsize) / MIB;
  return {
    freeMiB: Math.floor((bavail * bsize) / MIB),
    reserveMiB: Math.ceil(Math.min(RESERVE.share * sizeMiB, RESERVE.mostMiB)),
  };
}
