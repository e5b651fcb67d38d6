/**
 * Folders of lab processes, named for their pid, so that those of a process that was killed can be told and
 * removed.
 */
import { readFileSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { unmountAll } from "./forgetful-disk.ts";

/** Makes a folder in `parent` that `removeLeftovers` will know. */
export function makeFolder(parent: string): Promise<string> {
  return mkdtemp(join(parent, `remus-lab-${process.pid}-`));
}

/** Removes what labs have left in `parent` whose process was killed. */
export async function removeLeftovers(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const pid = /^remus-lab-(\d+)-/.exec(name)?.[1];
    if (pid !== undefined && !processRuns(Number(pid))) await removeFolder(join(parent, name));
  }
}

/** Removes a folder with all that is in it, and on it. */
export async function removeFolder(path: string): Promise<void> {
  await unmountAll(path);
  await rm(path, { recursive: true, force: true });
}

/** Whether a process is there and not merely waiting to be reaped. */
export function processRuns(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return !["Z", "X"].includes(stat.slice(stat.lastIndexOf(")") + 2)[0]!);
  } catch {
    return false;
  }
}
