/**
 * What a disk image is, read off its header alone. Source of the qcow2 fields: QEMU docs/interop/qcow2.txt.
 */
import { constants } from "node:fs";
import { access, type FileHandle, open, stat } from "node:fs/promises";
import { isLocked } from "../../os/file-lock.ts";
import { imageIdentity } from "./image-identity.ts";

/** What both hosts must agree on, and what decides how the image is opened. Sizes in bytes. */
export interface DiskImageFacts {
  readonly kind: "file" | "block-device";
  /** The disk's size as the guest sees it. */
  readonly virtualBytes: number;
  /** What the file takes on the host. */
  readonly allocatedBytes: number;
  /** Of qcow2. */
  readonly clusterBytes?: number;
  /** Which image it is, where two hosts can tell. */
  readonly identity?: string;
}

/**
 * Why an image cannot be used. `code` is for programs; the message is what is wrong with it, and what to do.
 */
export class ImageProblem extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.name = "ImageProblem";
    this.code = code;
  }
}

const QCOW2_MAGIC = 0x514649fb;
const HEADER_BYTES = 104;
/**
 * An image that was not closed (the dirty bit, of lazy refcounts) is not among them: QEMU repairs that when
 * it opens it.
 */
const INCOMPATIBLE = { corrupt: 2n, externalData: 4n } as const;

/**
 * QEMU locks single bytes in this range, one for each thing it does or forbids to others
 * (block/file-posix.c).
 */
const LOCKS = { from: 100, length: 200 } as const;

/**
 * Looks at headers and locks alone.
 * @param own nobody else may have it open
 * @throws ImageProblem, a sentence without its subject and its full stop
 */
export async function inspectImage(
  path: string,
  format: "raw" | "qcow2",
  { own = true } = {},
): Promise<DiskImageFacts> {
  const kind = await kindOf(path);
  const file = await opened(path, kind === "block-device" && own);
  try {
    if (own && isLocked(file.fd, LOCKS.from, LOCKS.length))
      throw new ImageProblem("image-in-use", "is in use by another QEMU; end that first");
    const { blocks } = await file.stat();
    const identity = await imageIdentity(path);
    const common = { kind, allocatedBytes: blocks * 512, ...(identity === undefined ? {} : { identity }) };
    // Of a raw image nothing is read: its first bytes are the guest's, which may write there what looks like
    // another format.
    if (format === "raw") return { ...common, virtualBytes: wholeSectors(await sizeOf(file, kind)) };
    const header = Buffer.alloc(HEADER_BYTES);
    const { bytesRead } = await file.read(header, 0, HEADER_BYTES, 0);
    if (bytesRead < 72 || header.readUInt32BE(0) !== QCOW2_MAGIC)
      throw new ImageProblem(
        "image-format",
        "is no qcow2 image, and format says so; name the qcow2 image, or make one with qemu-img create -f qcow2",
      );
    return { ...common, ...qcow2(header) };
  } finally {
    await file.close();
  }
}

async function kindOf(path: string): Promise<DiskImageFacts["kind"]> {
  const facts = await stat(path).catch((error: NodeJS.ErrnoException) => {
    const what =
      error.code === "ENOENT"
        ? "is not there; make it, of the same format and size on both hosts"
        : error.message;
    throw new ImageProblem("image-missing", what);
  });
  if (!facts.isFile() && !facts.isBlockDevice())
    throw new ImageProblem("image-kind", "is neither a file nor a block device; name an image");
  await access(path, constants.R_OK | constants.W_OK).catch((error: NodeJS.ErrnoException) => {
    const why =
      error.code === "EROFS" ? "lies on a file system that is read-only" : "cannot be written by this user";
    throw new ImageProblem("image-read-only", `${why}; give it the right to read and write`);
  });
  return facts.isFile() ? "file" : "block-device";
}

/**
 * @param exclusive no file system, LVM, RAID or swap of this host may have the device: with O_EXCL the kernel
 * says so
 */
async function opened(path: string, exclusive: boolean): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDONLY | (exclusive ? constants.O_EXCL : 0));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EBUSY")
      throw new ImageProblem(
        "image-in-use",
        "is mounted here, or part of LVM, RAID or swap; take it out of that, or name another",
      );
    throw new ImageProblem("image-unreadable", `cannot be read: ${(error as Error).message}`);
  }
}

async function sizeOf(file: FileHandle, kind: DiskImageFacts["kind"]): Promise<number> {
  if (kind === "file") return (await file.stat()).size;
  // A block device has no size in its inode; sysfs has it in units of 512 bytes.
  const { rdev } = await file.stat();
  const numbers = `${(rdev >> 8) & 0xfff}:${(rdev & 0xff) | ((rdev >> 12) & 0xfff00)}`;
  const sectors = await open(`/sys/dev/block/${numbers}/size`, "r");
  try {
    return Number((await sectors.readFile("utf8")).trim()) * 512;
  } finally {
    await sectors.close();
  }
}

function wholeSectors(bytes: number): number {
  if (bytes > 0 && bytes % 512 === 0) return bytes;
  throw new ImageProblem(
    "image-size",
    `has ${bytes} bytes; make it a multiple of 512 (truncate -s), and more than none`,
  );
}

function qcow2(header: Buffer): Pick<DiskImageFacts, "virtualBytes" | "clusterBytes"> {
  const version = header.readUInt32BE(4);
  if (version !== 2 && version !== 3)
    throw new ImageProblem("image-format", `is qcow2 of version ${version}; QEMU knows 2 and 3`);
  if (header.readUInt32BE(16) !== 0)
    throw new ImageProblem(
      "image-backing",
      "has a backing file, which Remus does not copy; flatten it with qemu-img convert",
    );
  if (header.readUInt32BE(32) !== 0)
    throw new ImageProblem(
      "image-encrypted",
      "is encrypted inside qcow2, which Remus cannot open; use encryption below or in the guest",
    );
  const features = version === 3 ? header.readBigUInt64BE(72) : 0n;
  if ((features & INCOMPATIBLE.corrupt) !== 0n)
    throw new ImageProblem("image-corrupt", "is marked corrupt; mend it with qemu-img check -r all");
  if ((features & INCOMPATIBLE.externalData) !== 0n)
    throw new ImageProblem(
      "image-external-data",
      "keeps its data in another file, which Remus does not copy; convert it",
    );
  const clusterBits = header.readUInt32BE(20);
  if (clusterBits < 9 || clusterBits > 21)
    throw new ImageProblem("image-corrupt", "has a header that makes no sense; restore it from a backup");
  return { virtualBytes: wholeSectors(Number(header.readBigUInt64BE(24))), clusterBytes: 2 ** clusterBits };
}
