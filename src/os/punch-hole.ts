/** Whether a file can give a part of its space back. */
import { checked, libc, SystemCallError } from "./libc.ts";

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;

/**
 * Tried behind the file's end, where there is nothing to lose.
 * @param fd open for writing
 * @param bytes size of the file
 * @throws SystemCallError when the answer is neither yes nor no
 */
export function canPunchHoles(fd: number, bytes: number): boolean {
  try {
    checked("fallocate", libc.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, bytes, 4096));
    return true;
  } catch (error) {
    if (error instanceof SystemCallError && ["EOPNOTSUPP", "ENOTSUP", "ENOSYS"].includes(error.code))
      return false;
    throw error;
  }
}
