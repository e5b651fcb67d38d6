/** Space of files: given back in parts, or reserved before it is used. */
import { checked, libc, SystemCallError } from "./libc.ts";

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const UNSUPPORTED = ["EOPNOTSUPP", "ENOTSUP", "ENOSYS"];

/**
 * Tried behind the file's end, where there is nothing to lose.
 * @param fd open for writing
 * @param bytes size of the file
 * @throws SystemCallError when the answer is neither yes nor no
 */
export function canPunchHoles(fd: number, bytes: number): boolean {
  return supported(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, bytes, 4096);
}

/**
 * Takes the space for bytes [from, from + length) of a file, so that using them cannot fail for want of it.
 * What they hold stays.
 * @param fd open for writing
 * @returns false where the file system cannot do that
 * @throws SystemCallError, ENOSPC among others
 */
export function reserve(fd: number, from: number, length: number): boolean {
  return supported(fd, 0, from, length);
}

function supported(fd: number, mode: number, from: number, length: number): boolean {
  for (;;) {
    try {
      checked("fallocate", libc.fallocate(fd, mode, from, length));
      return true;
    } catch (error) {
      if (!(error instanceof SystemCallError)) throw error;
      if (UNSUPPORTED.includes(error.code)) return false;
      // A signal came; what was reserved before it was given back.
      if (error.code !== "EINTR") throw error;
    }
  }
}
