/**
 * The write-intent log of one disk: which parts of it the VM may have changed lately, on stable storage
 * *before* they are changed. After a crash of this host it tells where the image may differ from what the
 * other host has. DRBD's activity log does the same.
 *
 * A file: a page of JSON, then one bit an extent. A bit is only ever set; a log that has grown gives way to a
 * new one.
 */
import { type FileHandle, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Extent } from "./extents.ts";

const HEAD_BYTES = 4096;
const PAGE_BYTES = 4096;
/** How the name of a log ends that QEMU has not been given yet. */
const UNFINISHED = ".new";
/**
 * QEMU tells of 64 KiB at a time. Larger extents on disks for which the bits would take more than 128 KiB.
 */
const LEAST_EXTENT_BYTES = 64 << 10;
const MOST_EXTENTS = 1 << 20;

export interface IntentLogHead {
  readonly version: 1;
  readonly session: string;
  readonly disk: number;
  readonly diskBytes: number;
  readonly extentBytes: number;
}

export class IntentLog {
  /** Bytes of the disk that it names. */
  markedBytes = 0;
  readonly path: string;
  private readonly extentBytes: number;
  private readonly bits: Uint8Array;
  /** Bits that are on stable storage. */
  private readonly safe: Uint8Array;
  private readonly file: FileHandle;
  private readonly changedPages = new Set<number>();
  private writing: Promise<void> | undefined;
  /** What failed once is not trusted again. */
  private failure: Error | undefined;

  private constructor(path: string, file: FileHandle, { diskBytes, extentBytes }: IntentLogHead) {
    this.path = path;
    this.file = file;
    this.extentBytes = extentBytes;
    this.bits = new Uint8Array(bitBytes(diskBytes, extentBytes));
    this.safe = new Uint8Array(this.bits.length);
  }

  /** An empty log, on stable storage when this resolves. A file of that name is written over. */
  static async create(
    path: string,
    of: Pick<IntentLogHead, "session" | "disk" | "diskBytes">,
  ): Promise<IntentLog> {
    const head: IntentLogHead = { version: 1, ...of, extentBytes: extentBytesFor(of.diskBytes) };
    // Under its own name it is whole, whenever this host should fail.
    const unfinished = `${path}${UNFINISHED}`;
    const file = await open(unfinished, "w+", 0o600);
    try {
      await file.write(JSON.stringify(head).padEnd(HEAD_BYTES, " "), 0);
      await file.truncate(HEAD_BYTES + bitBytes(head.diskBytes, head.extentBytes));
      await file.sync();
      await rename(unfinished, path);
      await syncFolder(join(path, ".."));
    } catch (error) {
      await file.close();
      throw error;
    }
    return new IntentLog(path, file, head);
  }

  /**
   * Marks a range that is about to be changed. Resolves when that is on stable storage. Rejects when it
   * cannot be put there.
   */
  async mark({ from, to }: Extent): Promise<void> {
    let fresh = false;
    for (let extent = Math.floor(from / this.extentBytes); extent * this.extentBytes < to; extent++) {
      const [byte, bit] = [extent >> 3, 1 << (extent & 7)];
      if ((this.safe[byte]! & bit) !== 0) continue;
      fresh = true;
      if ((this.bits[byte]! & bit) !== 0) continue;
      this.bits[byte]! |= bit;
      this.markedBytes += this.extentBytes;
      this.changedPages.add(Math.floor(byte / PAGE_BYTES));
    }
    if (!fresh) return;
    // What is being written now may have been taken before our bits were set; then the next round has them.
    await this.writing;
    if (this.changedPages.size > 0)
      this.writing ??= this.write().finally(() => {
        this.writing = undefined;
      });
    await this.writing;
    if (this.failure !== undefined) throw this.failure;
  }

  async close(): Promise<void> {
    await this.writing;
    await this.file.close();
  }

  private async write(): Promise<void> {
    try {
      await this.put();
    } catch (error) {
      this.failure ??= error as Error;
    }
  }

  private async put(): Promise<void> {
    const pages = [...this.changedPages];
    this.changedPages.clear();
    const copies = pages.map((page) => this.bits.slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES));
    for (const [i, page] of pages.entries())
      await this.file.write(copies[i]!, 0, null, HEAD_BYTES + page * PAGE_BYTES);
    await this.file.datasync();
    for (const [i, page] of pages.entries()) this.safe.set(copies[i]!, page * PAGE_BYTES);
  }
}

/**
 * A path for a new log of a disk: no log of an earlier session may be written over while it may still be
 * needed.
 */
export async function newLogPath(folder: string, vm: string, disk: number): Promise<string> {
  const numbers = (await logFiles(folder, vm, disk)).map((path) =>
    Number(path.slice(path.lastIndexOf("-") + 1)),
  );
  return join(folder, `${vm}-disk${disk}.intent-${Math.max(0, ...numbers) + 1}`);
}

async function logFiles(folder: string, vm: string, disk: number, ending = ""): Promise<string[]> {
  const prefix = `${vm}-disk${disk}.intent-`;
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  return names
    .filter((name) => name.startsWith(prefix) && name.endsWith(ending))
    .filter((name) => /^\d+$/.test(name.slice(prefix.length, name.length - ending.length)))
    .map((name) => join(folder, name));
}

/**
 * What the logs of `session` name; undefined when there is none of that session, or one that cannot be read.
 */
export async function readIntents(
  folder: string,
  vm: string,
  disk: number,
  session: string,
): Promise<Extent[] | undefined> {
  const extents: Extent[] = [];
  let found = false;
  for (const path of await logFiles(folder, vm, disk)) {
    const bytes = await readFile(path);
    const head = headOf(bytes);
    if (head === undefined) return undefined;
    if (head.session !== session || head.disk !== disk) continue;
    found = true;
    extents.push(...marked(head, bytes.subarray(HEAD_BYTES)));
  }
  return found ? extents : undefined;
}

/** Removes all logs of a disk but those at `keep`. */
export async function removeIntents(
  folder: string,
  vm: string,
  disk: number,
  keep: readonly string[] = [],
): Promise<void> {
  const unfinished = await logFiles(folder, vm, disk, UNFINISHED);
  for (const path of [...(await logFiles(folder, vm, disk)), ...unfinished])
    if (!keep.includes(path)) await rm(path, { force: true });
}

function extentBytesFor(diskBytes: number): number {
  let bytes = LEAST_EXTENT_BYTES;
  while (diskBytes / bytes > MOST_EXTENTS) bytes *= 2;
  return bytes;
}

function bitBytes(diskBytes: number, extentBytes: number): number {
  return Math.ceil(Math.ceil(diskBytes / extentBytes) / 8);
}

function headOf(bytes: Uint8Array): IntentLogHead | undefined {
  try {
    const head = JSON.parse(Buffer.from(bytes.subarray(0, HEAD_BYTES)).toString("utf8")) as IntentLogHead;
    const whole = bytes.length === HEAD_BYTES + bitBytes(head.diskBytes, head.extentBytes);
    return head.version === 1 && whole ? head : undefined;
  } catch {
    return undefined;
  }
}

function marked({ diskBytes, extentBytes }: IntentLogHead, bits: Uint8Array): Extent[] {
  const extents: Extent[] = [];
  for (let extent = 0; extent * extentBytes < diskBytes; extent++)
    if ((bits[extent >> 3]! & (1 << (extent & 7))) !== 0)
      extents.push({ from: extent * extentBytes, to: Math.min(diskBytes, (extent + 1) * extentBytes) });
  return extents;
}

async function syncFolder(folder: string): Promise<void> {
  const directory = await open(folder, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
