/**
 * QEMU locks single bytes of an image, one for each thing that it does or forbids to others
 * (block/file-posix.c). Both of what it does not say itself: who has an image that it is refused, and that it
 * runs a VM without having been given an image alone. QEMU 7.2 does, when the image was exported before its
 * migration was loaded: it takes the rest of its locks when the VM runs, and where it cannot it only writes a
 * line.
 */
import { lockHolders, locksOf } from "../../os/lock-holders.ts";

/** RAW_PERM_BASE and RAW_SHARED_BASE, and the bit of BLK_PERM_WRITE. */
const WRITES = 101;
const FORBIDS_WRITES = 201;

/**
 * Of images that others have locked, too: a sentence's rest for each, "PATH is in use by NAME (process PID)".
 */
export async function inUseByOthers(images: readonly string[], qemuPid: number): Promise<string[]> {
  const found: string[] = [];
  for (const image of images) {
    const holders = await lockHolders(image, qemuPid);
    if (holders.length === 0) continue;
    const who = holders.map(({ name, pid }) => `${name} (process ${pid})`).join(" and ");
    found.push(`${image} is in use by ${who}`);
  }
  return found;
}

/** Images that the VM of this QEMU writes, and others may, too. */
export async function writtenWithOthers(
  images: readonly string[],
  qemuPid: number,
): Promise<readonly string[]> {
  const shared: string[] = [];
  for (const image of images) {
    const locks = await locksOf(qemuPid, image);
    const has = (byte: number) => locks.some(([from, to]) => from <= byte && byte <= to);
    // Where the file system has no locks there are none at all.
    if (has(WRITES) && !has(FORBIDS_WRITES)) shared.push(image);
  }
  return shared;
}
