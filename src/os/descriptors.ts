/**
 * What the kernel allows this process: file descriptors, how many there are and may be, and how large a file
 * may get.
 */
import { readFileSync } from "node:fs";
import { readdir } from "node:fs/promises";

/** Node has raised the soft limit to the hard one when it started. */
export function mostDescriptors(): number {
  const limit = /^Max open files +(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
  return limit === undefined ? Number.POSITIVE_INFINITY : Number(limit);
}

/** @throws EMFILE, ENFILE where there is none left to look with */
export async function usedDescriptors(): Promise<number> {
  // The one that looks is among them.
  return (await readdir("/proc/self/fd")).length - 1;
}

/**
 * Bytes; infinite if there is no limit. A write beyond it fails with EFBIG, in a file that is as large
 * already, too.
 */
export function largestFile(): number {
  const limit = /^Max file size +(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
  return limit === undefined ? Number.POSITIVE_INFINITY : Number(limit);
}
