/** What is wrong, or doubtful, with the VM's disks: part of preflight, before QEMU is started. */
import { open, stat, statfs } from "node:fs/promises";
import { largestFile } from "../../os/descriptors.ts";
import { canPunchHoles } from "../../os/file-space.ts";
import type { DiskSpec } from "../vm-spec.ts";
import { type DiskImageFacts, ImageProblem, inspectImage } from "./disk-image.ts";
import { directory } from "./host-facts.ts";
import { error, type Finding, warning } from "./traps.ts";

const MIB = 2 ** 20;

export interface DiskAnswer {
  readonly findings: readonly Finding[];
  /** What the images are, in the order of the disks. Those with an error among the findings are left out. */
  readonly images: readonly DiskImageFacts[];
}

/**
 * Reads the images' headers and asks their file systems. Must not be called while a QEMU of ours has them
 * open.
 */
export async function diskPreflight(
  disks: readonly DiskSpec[],
  question: { readonly stateDirectory: string },
): Promise<DiskAnswer> {
  const looked = await Promise.all(disks.map((disk, index) => imageAnswer(disk, nameOf(disk, index))));
  return {
    images: looked.flatMap(({ images }) => images),
    findings: [
      ...looked.flatMap(({ findings }) => findings),
      ...(await twinFindings(disks)),
      ...disks.flatMap(sharedFindings),
      ...disks.flatMap(durabilityFindings),
      ...looked.flatMap(({ images }, index) => flashFindings(disks[index]!, index, images[0])),
      ...(await stateFindings(disks, question.stateDirectory)),
    ],
  };
}

function nameOf({ bus, image }: DiskSpec, index: number): string {
  if (bus === "pflash") return `vm.uefi.variables ${image}`;
  return `vm.disks[${index}].image ${image}`;
}

async function imageAnswer({ image, format, storage }: DiskSpec, name: string): Promise<DiskAnswer> {
  const own = storage === "replicated";
  try {
    const facts = await inspectImage(image, format, { own });
    const holes = own ? await holeFindings(image, facts, name) : [];
    return { images: [facts], findings: [...holes, ...limitFindings(facts, name)] };
  } catch (problem) {
    const code = problem instanceof ImageProblem ? problem.code : "image-unreadable";
    return { images: [], findings: [error(code, `${name} ${(problem as Error).message}.`)] };
  }
}

function limitFindings({ kind, virtualBytes }: DiskImageFacts, name: string): Finding[] {
  const limit = largestFile();
  if (kind === "block-device" || virtualBytes <= limit) return [];
  const text =
    `${name} has ${virtualBytes} bytes, and a file of this process may have ${limit}: what the guest writes ` +
    "beyond that would fail as an I/O error. Raise the limit (LimitFSIZE=infinity in the unit, ulimit -f unlimited).";
  return [error("file-size-limit", text)];
}

async function holeFindings(image: string, { kind }: DiskImageFacts, name: string): Promise<Finding[]> {
  if (kind === "block-device") return [];
  const file = await open(image, "r+");
  try {
    if (canPunchHoles(file.fd, (await file.stat()).size)) return [];
  } finally {
    await file.close();
  }
  const text = `${name} lies on a file system that takes no space back: what the guest discards stays allocated. Use ext4, XFS or btrfs to have it freed.`;
  return [warning("no-holes", text)];
}

/** By another name, or through a link. Paths that are equal are the configuration's affair. */
async function twinFindings(disks: readonly DiskSpec[]): Promise<Finding[]> {
  const places = await Promise.all(
    disks.map(async ({ image }, index) => {
      const facts = await stat(image).catch(() => undefined);
      if (facts === undefined) return `nothing at ${index}`;
      return facts.isBlockDevice() ? `device ${facts.rdev}` : `${facts.dev}:${facts.ino}`;
    }),
  );
  return disks.flatMap((disk, index) => {
    const same = places.indexOf(places[index]!);
    if (same === index) return [];
    const text = `${nameOf(disk, index)} is that of vm.disks[${same}] by another name. Give each disk an image of its own.`;
    return [error("image-twice", text)];
  });
}

function sharedFindings(disk: DiskSpec, index: number): Finding[] {
  if (disk.storage === "replicated") return [];
  const text =
    `vm.disks[${index}] (${disk.image}) is shared storage, which is for testing: what the VM writes to it reaches it at once, and is not taken back ` +
    "when a failover goes back to the last checkpoint. The VM may then find a disk that is newer than its memory. Use storage: replicated.";
  return [warning("shared-disk", text)];
}

/**
 * Without flushes qcow2 does not keep its own structures in order: after a power failure data of the guest's
 * was seen in the wrong places.
 */
function durabilityFindings(disk: DiskSpec, index: number): Finding[] {
  if (disk.durability === "strict") return [];
  const name = `${nameOf(disk, index)} cannot have durability: replicated:`;
  if (disk.storage === "shared")
    return [error("durability-shared", `${name} no second host holds what is written to it. Use strict.`)];
  if (disk.format === "raw") return [];
  const text = `${name} should this host lose power, a ${disk.format} image would itself be damaged. Use raw, or strict.`;
  return [error("durability-format", text)];
}

/** QEMU's flash memory: whole sectors of 4 KiB, and 8 MiB at most with the code. */
function flashFindings(disk: DiskSpec, index: number, image: DiskImageFacts | undefined): Finding[] {
  if (disk.bus !== "pflash" || image === undefined || image.virtualBytes % 4096 === 0) return [];
  const text = `${nameOf(disk, index)} has ${image.virtualBytes} bytes, and flash memory comes in whole sectors of 4096. Copy the variable store that came with the firmware (OVMF_VARS_4M.fd).`;
  return [error("image-size", text)];
}

/** What is noted there must be found again after a crash of this host. */
async function stateFindings(disks: readonly DiskSpec[], stateDirectory: string): Promise<Finding[]> {
  const { inMemory, dial } = await directory(stateDirectory);
  if (dial !== "open") {
    const text = `stateDirectory ${stateDirectory} cannot be written. Give this user the right, or name another.`;
    return [error("state-directory", text)];
  }
  if (!inMemory) return [];
  const compared = disks.some(({ storage }) => storage === "replicated")
    ? " all its disks are compared anew, and"
    : "";
  const text = `stateDirectory ${stateDirectory} lies in memory (tmpfs): after a crash of this host${compared} nothing keeps it from starting the VM from what is not its latest state. Name one on a disk.`;
  return [warning("state-in-memory", text)];
}

/**
 * At the backup: room for sparse images to grow as the primary's are written, by file system.
 * @param images what the images of `disks` are, in order
 */
export async function diskRoomFindings(
  disks: readonly DiskSpec[],
  images: readonly DiskImageFacts[],
): Promise<Finding[]> {
  const systems = new Map<number, { names: string[]; image: string; missingBytes: number }>();
  for (const [index, disk] of disks.entries()) {
    const { allocatedBytes, kind, virtualBytes } = images[index]!;
    if (disk.storage === "shared" || kind === "block-device") continue;
    const { dev } = await stat(disk.image);
    const { names, missingBytes } = systems.get(dev) ?? { names: [], missingBytes: 0 };
    systems.set(dev, {
      image: disk.image,
      names: [...names, nameOf(disk, index)],
      missingBytes: missingBytes + Math.max(0, virtualBytes - allocatedBytes),
    });
  }
  return (await Promise.all([...systems.values()].map(roomFindings))).flat();
}

async function roomFindings(system: {
  readonly names: readonly string[];
  readonly image: string;
  readonly missingBytes: number;
}): Promise<Finding[]> {
  const { image, missingBytes, names } = system;
  const { bavail, bsize } = await statfs(image);
  const freeBytes = bavail * bsize;
  if (freeBytes >= missingBytes) return [];
  const room =
    `${names.join(" and ")} may grow by ${Math.ceil(missingBytes / MIB)} MiB, ` +
    `and the file system has ${Math.floor(freeBytes / MIB)} MiB free`;
  return freeBytes < missingBytes / 100
    ? [error("disk-full", `${room}. Free some, or move the image.`)]
    : [warning("disk-room", `${room}. Should it fill up, protection ends.`)];
}
