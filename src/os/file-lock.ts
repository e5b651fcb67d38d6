/** Locks on files, which belong to an open description: they go with it, however its process ends. */
import { checked, checkedOrAgain, libc } from "./libc.ts";

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_WRLCK = 1;
const F_UNLCK = 2;

/**
 * Whether some other open description has a lock within bytes [from, from + length) of the file open as `fd`.
 * @throws SystemCallError
 */
export function isLocked(fd: number, from: number, length: number): boolean {
  // struct flock: short type, short whence (0: from the start), 4 bytes of nothing, i64 start, i64 length,
  // i32 pid (0, as the call wants it).
  const lock = Buffer.alloc(32);
  lock.writeInt16LE(F_WRLCK, 0);
  lock.writeBigInt64LE(BigInt(from), 8);
  lock.writeBigInt64LE(BigInt(length), 16);
  checked("fcntl(F_OFD_GETLK)", libc.fcntl(fd, F_OFD_GETLK, lock));
  return lock.readInt16LE(0) !== F_UNLCK;
}

/**
 * Locks the whole file open as `fd` for writing, as long as that description is open. False if another one
 * has it. @throws SystemCallError
 */
export function lockWhole(fd: number): boolean {
  const lock = Buffer.alloc(32);
  lock.writeInt16LE(F_WRLCK, 0);
  return checkedOrAgain("fcntl(F_OFD_SETLK)", libc.fcntl(fd, F_OFD_SETLK, lock)) !== -1;
}
