/** Which block devices of this host have sectors in common, as sysfs tells. */
import { readdirSync, readFileSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";

/** `major:minor` of a device, as sysfs calls it. */
export function deviceNumbers(rdev: number): string {
  return `${(rdev >> 8) & 0xfff}:${(rdev & 0xff) | ((rdev >> 12) & 0xfff00)}`;
}

/**
 * The device itself, its partitions, and what LVM, RAID or multipath have built of any of them: who writes to
 * it changes all of these.
 * @param sysfs for tests
 */
export function devicesOn(numbers: string, sysfs = "/sys/dev/block"): string[] {
  const found = new Set<string>();
  const look = (folder: string): void => {
    const own = contents(join(folder, "dev"));
    if (own === undefined || found.has(own)) return;
    found.add(own);
    const whole = basename(folder);
    // `sda1` in sda's, `nvme0n1p1` in nvme0n1's.
    for (const part of entries(folder)) if (part.startsWith(whole)) look(join(folder, part));
    for (const holder of entries(join(folder, "holders"))) {
      const above = real(join(folder, "holders", holder));
      if (above !== undefined) look(above);
    }
  };
  const folder = real(join(sysfs, numbers));
  if (folder !== undefined) look(folder);
  return found.size === 0 ? [numbers] : [...found];
}

/** The file that a loop device shows; undefined of others. */
export function loopFile(numbers: string, sysfs = "/sys/dev/block"): string | undefined {
  const folder = real(join(sysfs, numbers));
  if (folder === undefined) return undefined;
  const whole = contents(join(folder, "partition")) === undefined ? folder : dirname(folder);
  return contents(join(whole, "loop/backing_file"));
}

function real(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}

function entries(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function contents(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}
