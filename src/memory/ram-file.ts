/**
 * Files that hold a VM's RAM. Whoever maps a file without space behind it gets SIGBUS at the first touch when
 * the file system is full: the guardian while it commits, or the VM itself, long after a failover. So all of
 * the space is taken when the file is made.
 */
import { closeSync, fstatSync, ftruncateSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { reserve } from "../os/file-space.ts";
import { Mapping } from "../os/mapping.ts";
import { whyUnsafe } from "../os/safe-path.ts";

/**
 * In memory the kernel clears the pages as they are reserved: some tens of milliseconds, after which others
 * have a turn.
 */
const STEP_BYTES = 128 << 20;
const ZEROS_BYTES = 1 << 20;

/** There is no such file: a sentence that says why, and what to do. */
export class RamFileError extends Error {}

/**
 * Makes a file of `bytes` zeros for a VM's RAM, with all its space reserved, in place of one that may be
 * there, and maps it for writing. Leaves no file behind when it fails.
 * @throws RamFileError with the number of bytes when there is no room for it, or when others could change
 * what its path leads to
 */
export async function makeRamFile(path: string, bytes: number): Promise<Mapping> {
  const folder = dirname(path);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const unsafe = whyUnsafe(folder);
  if (unsafe !== undefined) throw new RamFileError(unsafe);
  rmSync(path, { force: true });
  // What is mapped is what was made: the name may lead elsewhere by then.
  const fd = openSync(path, "wx+", 0o600);
  try {
    ftruncateSync(fd, bytes);
    for (let from = 0; from < bytes; from += STEP_BYTES) {
      takeSpace(fd, from, Math.min(STEP_BYTES, bytes - from));
      await nextTurn();
    }
    return Mapping.descriptor(fd, "write");
  } catch (error) {
    rmSync(path, { force: true });
    if (["ENOSPC", "EDQUOT", "ENOMEM"].includes((error as NodeJS.ErrnoException).code ?? ""))
      throw new RamFileError(
        `there is no room for the ${bytes} bytes of RAM in ${folder} (${(error as Error).message}). Free some, or name another imageDirectory`,
      );
    throw error;
  } finally {
    closeSync(fd);
  }
}

/** A file system that cannot reserve space is made to take it. */
function takeSpace(fd: number, from: number, length: number): void {
  if (reserve(fd, from, length)) return;
  const zeros = new Uint8Array(Math.min(ZEROS_BYTES, length));
  for (let done = 0; done < length; )
    done += writeSync(fd, zeros, 0, Math.min(zeros.length, length - done), from + done);
}

/** Beside a VM that runs, others have their turn sooner. */
const AGAIN_BYTES = 16 << 20;

/**
 * Takes the space again that a running VM has given back of its RAM file (a balloon that grows, or a guest
 * that reports free pages, makes holes). What the file holds stays. Where the file system cannot reserve
 * space nothing is done.
 * @returns how many bytes were missing
 * @throws RamFileError with the number of bytes when there is no room for all of them; what there was room
 * for is taken
 */
export async function reserveAgain(path: string): Promise<number> {
  const fd = openSync(path, "r+");
  try {
    const missing = missingBytes(fd);
    if (missing === 0) return 0;
    const { size } = fstatSync(fd);
    let failed: Error | undefined;
    for (let from = 0; from < size; from += AGAIN_BYTES) {
      try {
        if (!reserve(fd, from, Math.min(AGAIN_BYTES, size - from))) return missing;
      } catch (error) {
        failed ??= error as Error;
      }
      await nextTurn();
    }
    if (failed !== undefined)
      throw new RamFileError(
        `${missingBytes(fd)} bytes of ${path} cannot be reserved again: ${failed.message}`,
      );
    return missing;
  } finally {
    closeSync(fd);
  }
}

function missingBytes(fd: number): number {
  const { blocks, size } = fstatSync(fd);
  return Math.max(0, size - 512 * blocks);
}
