/** What a disk image is, read off its header alone. Source of the qcow2 fields: QEMU docs/interop/qcow2.txt. */
import { constants } from "node:fs";
import { access, type FileHandle, open, stat } from "node:fs/promises";
import { isLocked } from "../../os/file-lock.ts";

/** What both hosts must agree on, and what decides how the image is opened. Sizes in bytes. */
export interface DiskImageFacts {
  readonly kind: "file" | "block-device";
  /** The disk's size as the guest sees it. */
  readonly virtualBytes: number;
  /** What the file takes on the host. */
  readonly allocatedBytes: number;
  /** Of qcow2. */
  readonly clusterBytes?: number;
}

/** Why an image cannot be used. `code` is for programs; the message is what is wrong with it, and what to do. */
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
const INCOMPATIBLE = { corrupt: 2n, externalData: 4n } as const;

/** QEMU locks single bytes in this range, one for each thing it does or forbids to others (block/file-posix.c). */
const LOCKS = { from: 100, length: 200 } as const;

/** @param own nobody else may have it open. @throws ImageProblem */
export async function inspectImage(
  path: string,
  format: "raw" | "qcow2",
  { own = true } = {},
): Promise<DiskImageFacts> {
  const kind = await kindOf(path);
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (error) {
    throw new ImageProblem("image-unreadable", `cannot be read: ${(error as Error).message}`);
  }
  try {
    if (own && isLocked(file.fd, LOCKS.from, LOCKS.length))
      throw new ImageProblem("image-in-use", "is in use by another QEMU; end that first");
    const header = Buffer.alloc(HEADER_BYTES);
    const { bytesRead } = await file.read(header, 0, HEADER_BYTES, 0);
    const isQcow2 = bytesRead >= 72 && header.readUInt32BE(0) === QCOW2_MAGIC;
    const { blocks } = await file.stat();
    const allocatedBytes = blocks * 512;
    if (format === "qcow2") {
      if (!isQcow2)
        throw new ImageProblem(
          "image-format",
          'is no qcow2 image; set format to "raw" if it is a plain copy of a disk',
        );
      return { kind, allocatedBytes, ...qcow2(header) };
    }
    if (isQcow2)
      throw new ImageProblem(
        "image-format",
        'begins like a qcow2 image, and format is "raw"; set format to "qcow2"',
      );
    return { kind, allocatedBytes, virtualBytes: wholeSectors(await sizeOf(file, kind)) };
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
    `has ${bytes} bytes; a disk has a multiple of 512, and more than none`,
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
  return {
    virtualBytes: wholeSectors(Number(header.readBigUInt64BE(24))),
    clusterBytes: 2 ** header.readUInt32BE(20),
  };
}
