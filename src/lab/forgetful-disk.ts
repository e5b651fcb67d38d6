/**
 * What a power failure takes from a host's disk: everything that was written and not synced. The lab's hosts
 * keep it, for the kernel that has it in its cache does not die with them. A host with a forgetful disk has
 * its images and state on an ext4 file system of their own, on a loop device, which can be told to forget
 * what is in memory only, the end of its journal included (EXT4_IOC_SHUTDOWN).
 *
 * Needs loop devices, and a root that may mount.
 */
import { execFile } from "node:child_process";
import { closeSync, fstatSync, openSync, readdirSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { checked, libc } from "../os/libc.ts";

const run = promisify(execFile);
/** fs/ext4/ext4.h: _IOR('X', 125, __u32), and the flag that keeps the journal from being written. */
const EXT4_IOC_SHUTDOWN = 0x8004587d;
const NO_LOG_FLUSH = 2;
const PIECE_BYTES = 8192;
/**
 * linux/fs.h: SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER. It leaves the file system's own notes
 * alone.
 */
const WRITE_AND_WAIT = 7;
const UNMOUNT_WITHIN_MS = 20_000;

export class ForgetfulDisk {
  private readonly folder: string;
  private readonly store: string;
  private off = false;

  private constructor(folder: string, store: string) {
    this.folder = folder;
    this.store = store;
  }

  /** Mounts an empty one at `folder`. */
  static async mount(folder: string, mebibytes: number): Promise<ForgetfulDisk> {
    const disk = new ForgetfulDisk(folder, `${folder}.store`);
    const file = await open(disk.store, "w");
    await file.truncate(mebibytes * 2 ** 20);
    await file.close();
    await run("mkfs.ext4", ["-q", "-F", "-m", "0", disk.store]);
    await disk.mount();
    return disk;
  }

  /**
   * The power fails: of what was on its way some has got to the disk, in no order, and nothing more does.
   * Nobody writes any more.
   */
  forget(): void {
    for (const entry of readdirSync(this.folder, { withFileTypes: true }))
      if (entry.isFile()) writeSome(join(this.folder, entry.name));
    const fd = openSync(this.folder, "r");
    try {
      const flags = Buffer.alloc(4);
      flags.writeUInt32LE(NO_LOG_FLUSH);
      checked("ioctl", libc.ioctl(fd, EXT4_IOC_SHUTDOWN, flags));
    } finally {
      closeSync(fd);
    }
    this.off = true;
  }

  /**
   * The power is back, if it had failed: there is what was synced. Waits until those who had files open are
   * gone.
   */
  async again(): Promise<void> {
    if (!this.off) return;
    for (const deadline = performance.now() + UNMOUNT_WITHIN_MS; ; ) {
      try {
        await run("umount", [this.folder]);
        break;
      } catch (error) {
        if (performance.now() > deadline) throw error;
        await new Promise((again) => setTimeout(again, 20));
      }
    }
    await this.mount();
    this.off = false;
  }

  private async mount(): Promise<void> {
    await run("mount", ["-t", "ext4", "-o", "loop", this.store, this.folder]);
  }
}

/** A kernel writes what it has in memory when it likes. Every second piece of a file, by chance. */
function writeSome(path: string): void {
  const fd = openSync(path, "r");
  try {
    const { size } = fstatSync(fd);
    for (let at = 0; at < size; at += PIECE_BYTES)
      if (Math.random() < 0.5)
        checked("sync_file_range", libc.sync_file_range(fd, at, PIECE_BYTES, WRITE_AND_WAIT));
  } finally {
    closeSync(fd);
  }
}

/** Lets go of everything that is mounted in `folder`, used or not. */
export async function unmountAll(folder: string): Promise<void> {
  const mounts = await readFile("/proc/self/mounts", "utf8");
  for (const line of mounts.split("\n")) {
    const point = line.split(" ")[1];
    if (point?.startsWith(`${folder}/`)) await run("umount", ["--lazy", point]);
  }
}
