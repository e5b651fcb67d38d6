/**
 * The guest of the lab: Debian's kernel as it comes, and an initramfs with busybox, an unmodified
 * redis-server and guest/init. It needs no disk. Built once into `.cache/guest-<hash>/`; the hash covers
 * every byte that goes in.
 */
import { execFile } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { access, chmod, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { KernelModules } from "./kernel-modules.ts";

const run = promisify(execFile);

/** What the guest prints on its serial console, on a line of its own, once Redis answers PING. */
export const guestReadyLine = "REMUS-GUEST-READY";
/** How a line begins with which the guest says what went wrong in it. */
export const guestProblemPrefix = "REMUS-GUEST-PROBLEM";
export const redisPort = 6379;
/**
 * The CPU model for lab guests. Any will do; without RDRAND the guest needs up to a second more to boot, for
 * random numbers.
 */
export const guestCpu = "qemu64,+rdrand";

/**
 * Debian's redis-server program: it is this file, started under the name `redis-server` (argv[0]). The
 * package `redis-server` itself would start a service on the machine, so setup.sh installs `redis-tools`
 * only.
 */
export const redisServerFile = "/usr/bin/redis-check-rdb";

export interface GuestImage {
  /** Path of the bzImage. */
  readonly kernel: string;
  /**
   * Path of the initramfs, a cpio archive, not compressed: unpacking costs more than reading under emulation.
   */
  readonly initrd: string;
}

export interface GuestNic {
  readonly mac: string;
  /** With prefix length: `10.77.0.10/24`. */
  readonly ipv4?: string;
  readonly ipv6?: string;
}

/** `pace`: pages of 4 KiB in each file that the load writes; see guest/load. */
export type GuestLoad = "idle" | "busy" | { readonly pace: number };

/**
 * A panic ends the VM (with QEMU's -no-reboot) or restarts it. The last two only shorten the boot under
 * emulation.
 */
const kernelSettings = [
  "console=ttyS0",
  "quiet",
  "panic=-1",
  "rdinit=/init",
  "cryptomgr.notests",
  "mitigations=off",
];

/** What the guest does with its disks, by their names in there: `vda`, `sda`. */
export interface GuestDisks {
  /** Has an ext4 file system; Redis keeps its data there. */
  readonly data?: string;
  /** Are written all over. */
  readonly load: readonly string[];
}

/** The kernel command line of a guest with these NICs, to go with QEMU's -append. */
export function guestAppend(guest: {
  readonly nics: readonly GuestNic[];
  readonly load: GuestLoad;
  readonly disks?: GuestDisks;
}): string {
  const nics = guest.nics.map((nic) => {
    const addresses = [nic.ipv4, nic.ipv6].filter((address) => address !== undefined);
    return `remus.nic=${[nic.mac.toLowerCase(), ...addresses].join(",")}`;
  });
  const load = typeof guest.load === "string" ? guest.load : `busy:${guest.load.pace}`;
  const { data, load: loaded = [] } = guest.disks ?? {};
  const disks = [
    ...(data === undefined ? [] : [`remus.data=${data}`]),
    ...(loaded.length === 0 ? [] : [`remus.diskload=${loaded.join(",")}`]),
  ];
  return [...kernelSettings, ...nics, ...disks, `remus.load=${load}`].join(" ");
}

/** The Redis command that switches the load of a running guest. Redis answers `:1` when the guest took it. */
export function loadCommand(load: GuestLoad): string[] {
  return ["PUBLISH", "load", typeof load === "string" ? load : `busy ${load.pace}`];
}

/** The same for the load on disks without a file system, by their names in the guest; `[]` ends it. */
export function diskLoadCommand(disks: readonly string[]): string[] {
  return ["PUBLISH", "load", ["disks", ...disks].join(" ")];
}

/**
 * So many writes at random places of a disk without a file system, with a rest between two; the guest counts
 * `scattered` up when done. Without arguments: ends it.
 */
export function scatterCommand(scatter?: {
  readonly disk: string;
  readonly count: number;
  readonly blockKib: number;
  readonly restUs: number;
}): string[] {
  const { disk, count, blockKib, restUs } = scatter ?? {};
  return ["PUBLISH", "load", ["scatter", disk, count, blockKib, restUs].join(" ").trim()];
}

const projectCache = join(import.meta.dirname, "../../.cache");

/** What the guest loads at its start; with what these need. */
const moduleNames = ["virtio_pci", "virtio_net"];

/** Loaded when a disk of this kind is asked for. What ext4 needs is in the kernel. */
const diskModuleNames = { vd: ["virtio_blk"], sd: ["virtio_scsi", "sd_mod"] };

/** Loaded when they are asked for, by name. */
const moreModules = ["efivarfs", "virtio_balloon"];

/** Has the guest load a driver. The key `done` is its name when that is done. */
export function moduleCommand(name: string): string[] {
  return ["PUBLISH", "load", `module ${name}`];
}

/**
 * Has a guest that was started by UEFI write a variable of this name and contents. The key `done` is its name
 * then.
 */
export function uefiCommand(name: string): string[] {
  return ["PUBLISH", "load", `uefi ${name}`];
}

/**
 * Builds the guest image, or finds the one built before. Several processes may do so at the same time.
 * @throws when a program or the kernel is missing, with the file's name.
 */
export async function buildGuestImage(): Promise<GuestImage> {
  const kernelRoot = join(projectCache, "kernel");
  const kernel = await findKernel(kernelRoot);
  const entries = await collectEntries(kernelRoot);
  const hash = await hashEntries(entries);
  const folder = join(projectCache, `guest-${hash}`);
  const image = { kernel, initrd: join(folder, "initramfs.cpio") };
  if (await exists(image.initrd)) return image;
  await pack(entries, folder);
  return image;
}

/** A file of the initramfs: its path in there, and where its bytes come from. */
interface Entry {
  readonly path: string;
  readonly from: { readonly file: string } | { readonly text: string } | { readonly bytes: Uint8Array };
}

async function findKernel(root: string): Promise<string> {
  const names = await readdir(join(root, "boot")).catch(() => []);
  const name = names.find((file) => file.startsWith("vmlinuz-"));
  if (name === undefined) {
    throw new Error(`no kernel for guests in ${root}/boot: run "sh setup/setup.sh", which fetches it`);
  }
  return join(root, "boot", name);
}

async function collectEntries(kernelRoot: string): Promise<Entry[]> {
  const blkdiscard = await findProgram("blkdiscard");
  const libraries = await sharedLibraries([redisServerFile, blkdiscard]);
  return [
    { path: "init", from: { file: join(import.meta.dirname, "guest/init") } },
    { path: "load", from: { file: join(import.meta.dirname, "guest/load") } },
    { path: "diskload", from: { file: join(import.meta.dirname, "guest/diskload") } },
    { path: "scatter", from: { file: join(import.meta.dirname, "guest/scatter") } },
    { path: "bin/busybox", from: { file: await findProgram("busybox") } },
    { path: "bin/redis-server", from: { file: redisServerFile } },
    // Busybox has one, too, which cannot write zeroes.
    { path: "sbin/blkdiscard", from: { file: blkdiscard } },
    ...libraries.map((file) => ({ path: file.slice(1), from: { file } })),
    ...(await moduleEntries(kernelRoot)),
    ...["dev", "proc", "sys", "tmp"].map((name) => ({ path: `${name}/.keep`, from: { text: "" } })),
  ];
}

/** Modules for the guest, and files that list them in the order in which they must be loaded. */
async function moduleEntries(kernelRoot: string): Promise<Entry[]> {
  const modules = await KernelModules.in(kernelRoot);
  const orders = {
    order: await modules.order(moduleNames),
    "order-vd": await modules.order([...moduleNames, ...diskModuleNames.vd]),
    "order-sd": await modules.order([...moduleNames, ...diskModuleNames.sd]),
    "order-more": await modules.order([...moduleNames, ...moreModules]),
  };
  const names = [...new Set(Object.values(orders).flat())];
  const files = names.map(async (name) => ({
    path: `modules/${name}.ko`,
    from: { bytes: await modules.bytes(name) },
  }));
  return [
    ...(await Promise.all(files)),
    ...Object.entries(orders).map(([name, order]) => ({
      path: `modules/${name}`,
      from: { text: order.map((module) => `${module}.ko\n`).join("") },
    })),
  ];
}

/** The absolute paths of all shared libraries of these programs, the loader included, as ldd prints them. */
async function sharedLibraries(programs: readonly string[]): Promise<string[]> {
  const { stdout } = await run("ldd", [...programs]);
  const missing = /^\s*(\S+) => not found/m.exec(stdout);
  if (missing !== null) throw new Error(`the guest needs the library ${missing[1]}, which is not installed`);
  return [...new Set([...stdout.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1]!))];
}

async function findProgram(name: string): Promise<string> {
  for (const folder of ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]) {
    if (await exists(join(folder, name))) return join(folder, name);
  }
  throw new Error(`${name} is not installed: run "sh setup/setup.sh"`);
}

async function hashEntries(entries: readonly Entry[]): Promise<string> {
  const hash = createHash("sha256");
  for (const { path, from } of entries) {
    const bytes = await contents(from);
    hash.update(`${path}\0${bytes.length}\0`).update(bytes);
  }
  return hash.digest("hex").slice(0, 16);
}

async function contents(from: Entry["from"]): Promise<Uint8Array> {
  if ("text" in from) return Buffer.from(from.text);
  return "bytes" in from ? from.bytes : await readFile(from.file);
}

/** Writes the archive beside its place and moves the folder in whole. */
async function pack(entries: readonly Entry[], folder: string): Promise<void> {
  const work = `${folder}.${randomUUID()}`;
  const tree = join(work, "tree");
  try {
    for (const entry of entries) await writeEntry(entry, join(tree, entry.path));
    // The archive's owner is root, whoever builds it: an ordinary user may.
    const command = "find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 > ../initramfs.cpio";
    await run("sh", ["-c", command], { cwd: tree });
    await rm(tree, { recursive: true });
    await rename(work, folder).catch(async (error) => {
      if (!(await exists(join(folder, "initramfs.cpio")))) throw error; // else another process was quicker
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function writeEntry({ from }: Entry, target: string): Promise<void> {
  await mkdir(dirname(target), { recursive: true });
  await writeFile(target, await contents(from));
  if ("file" in from) await chmod(target, 0o755);
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}
