/** The disks of a lab's VM: an image of each for both hosts, on a real file system. */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { type FileHandle, mkdir, open, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { DiskSpec } from "../hypervisor/vm-spec.ts";
import { ForgetfulDisk } from "./forgetful-disk.ts";
import type { GuestDisks } from "./guest-image.ts";
import { makeFolder, removeFolder } from "./leftovers.ts";
import type { HostName } from "./namespaces.ts";

const run = promisify(execFile);
const SECTOR_BYTES = 512;
/** Of a file system for images, each with a copy while it is made, and state. */
const STORE_SLACK_MIB = 128;
/**
 * Of a random image: so much data, so far from one piece's beginning to the next one's. Neither is a multiple
 * of a sync's blocks.
 */
const PIECE = { bytes: 100_352, everyBytes: 301_056 };

export interface LabDisk {
  /** May have a fraction; the disk is a whole number of sectors of 512 bytes. */
  readonly mebibytes: number;
  readonly format?: "raw" | "qcow2";
  readonly bus?: "virtio-blk" | "virtio-scsi";
  /** Default legacy: a shorter pause (vm-spec.ts). */
  readonly virtio?: "standard" | "legacy";
  readonly storage?: "replicated" | "shared";
  readonly durability?: "strict" | "replicated";
  /** `data`: ext4, with Redis's data on it. `load`: written all over at random. `idle`: nobody touches it. */
  readonly use: "data" | "load" | "idle";
  /**
   * Of a disk without a file system: what host A's image begins with. `random`: pieces of random data all
   * over it.
   */
  readonly contents?: "blank" | "random";
  /**
   * Of a raw disk: what both hosts' images begin with, so that no first sync is needed. As large as the disk.
   */
  readonly copyOf?: string;
}

export class LabDisks {
  readonly directory: string;
  private readonly disks: readonly LabDisk[];
  private readonly forgetful = new Map<HostName, ForgetfulDisk>();

  private constructor(directory: string, disks: readonly LabDisk[]) {
    this.directory = directory;
    this.disks = disks;
  }

  /**
   * Makes the images: host A's with what the use needs, host B's blank. `forgetful`: a host that loses power
   * loses what is not synced.
   */
  static async create(disks: readonly LabDisk[], forgetful = false): Promise<LabDisks> {
    const lab = new LabDisks(await makeFolder(tmpdir()), disks);
    try {
      for (const host of ["a", "b"] as const) await lab.prepare(host, forgetful);
    } catch (error) {
      await lab.destroy();
      throw error;
    }
    return lab;
  }

  private async prepare(host: HostName, forgetful: boolean): Promise<void> {
    const { directory, disks } = this;
    const folder = join(directory, host);
    await mkdir(folder, { recursive: true });
    const mebibytes = disks.reduce((sum, one) => sum + 2 * one.mebibytes, STORE_SLACK_MIB);
    if (forgetful) this.forgetful.set(host, await ForgetfulDisk.mount(folder, mebibytes));
    await mkdir(join(folder, "state"));
    for (const [index, disk] of disks.entries())
      if (host === "a" || disk.storage !== "shared")
        await makeImage(this.image(host, index), disk, host === "a");
  }

  /** The host loses power. */
  losePower(host: HostName): void {
    this.forgetful.get(host)?.forget();
  }

  /** What the host had on its disks is there again. */
  async powerIsBack(host: HostName): Promise<void> {
    await this.forgetful.get(host)?.again();
  }

  /** Path of a host's image. */
  image(host: HostName, index: number): string {
    const { format = "raw", storage } = this.disks[index]!;
    return join(this.directory, storage === "shared" ? "a" : host, `disk${index}.${format}`);
  }

  /** `stateDirectory` of a host's guardian. */
  stateDirectory(host: HostName): string {
    return join(this.directory, host, "state");
  }

  /** `vm.disks` as that host's configuration has it. */
  spec(host: HostName): DiskSpec[] {
    return this.disks.map(
      ({ format = "raw", bus = "virtio-blk", virtio = "legacy", storage, durability }, index) => ({
        image: this.image(host, index),
        format,
        bus,
        virtio,
        storage: storage ?? "replicated",
        durability: durability ?? "strict",
      }),
    );
  }

  /** What the guest does with them, by the names that its kernel gives them. */
  get inGuest(): GuestDisks {
    const count = { "virtio-blk": 0, "virtio-scsi": 0 };
    const named = this.disks.map(({ bus = "virtio-blk", use }) => {
      const letter = String.fromCharCode("a".charCodeAt(0) + count[bus]++);
      return { use, name: `${bus === "virtio-blk" ? "vd" : "sd"}${letter}` };
    });
    const data = named.find(({ use }) => use === "data")?.name;
    const load = named.filter(({ use }) => use === "load").map(({ name }) => name);
    return { ...(data === undefined ? {} : { data }), load };
  }

  async destroy(): Promise<void> {
    await removeFolder(this.directory);
  }
}

async function makeImage(
  path: string,
  { mebibytes, format = "raw", use, contents = "blank", copyOf }: LabDisk,
  filled: boolean,
): Promise<void> {
  const raw = `${path}.new`;
  if (copyOf !== undefined) {
    await run("cp", ["--sparse=always", "--reflink=auto", copyOf, path]);
    return;
  }
  const file = await open(raw, "w");
  const bytes = Math.floor((mebibytes * 2 ** 20) / SECTOR_BYTES) * SECTOR_BYTES;
  await file.truncate(bytes);
  if (filled && contents === "random") await scatter(file, bytes);
  await file.close();
  if (filled && use === "data") await run("mkfs.ext4", ["-q", "-F", "-m", "0", raw]);
  if (format === "raw") await rename(raw, path);
  else {
    await run("qemu-img", ["convert", "-f", "raw", "-O", format, raw, path]);
    await rm(raw);
  }
}

/** The last sectors of the disk among them. */
async function scatter(file: FileHandle, bytes: number): Promise<void> {
  const last = Math.max(0, bytes - PIECE.bytes);
  for (let at = 0; at < last; at += PIECE.everyBytes)
    await file.write(randomBytes(PIECE.bytes), 0, PIECE.bytes, at);
  await file.write(randomBytes(bytes - last), 0, bytes - last, last);
}
