/**
 * Who has locked a file. Locks of open descriptions (what QEMU takes) have no process in /proc/locks;
 * /proc/PID/fdinfo has those of each descriptor. Of processes that this user may not look into, and of other
 * hosts, nothing is seen.
 */
import { readdir, readFile, stat } from "node:fs/promises";

export interface LockHolder {
  readonly pid: number;
  /** As in /proc/PID/comm. */
  readonly name: string;
}

/** First and last byte. */
export type LockedRange = readonly [from: number, to: number];

/** Other processes that have a lock on the file at `path`. */
export async function lockHolders(path: string, exceptPid: number): Promise<readonly LockHolder[]> {
  const found: LockHolder[] = [];
  for (const pid of (await readdir("/proc")).map(Number)) {
    if (!Number.isInteger(pid) || pid === exceptPid) continue;
    if ((await locksOf(pid, path)).length === 0) continue;
    const name = (await readFile(`/proc/${pid}/comm`, "utf8").catch(() => "?")).trim();
    found.push({ pid, name });
  }
  return found;
}

/** What a process has locked of the file at `path`; nothing if it may not be looked at, or has ended. */
export async function locksOf(pid: number, path: string): Promise<readonly LockedRange[]> {
  const file = await stat(path).catch(() => undefined);
  const fds = await readdir(`/proc/${pid}/fdinfo`).catch(() => []);
  const ranges: LockedRange[] = [];
  for (const fd of file === undefined ? [] : fds) {
    const text = await readFile(`/proc/${pid}/fdinfo/${fd}`, "utf8").catch(() => "");
    const lines = text.split("\n").filter((line) => line.startsWith("lock:"));
    if (lines.length === 0) continue;
    const open = await stat(`/proc/${pid}/fd/${fd}`).catch(() => undefined);
    if (open === undefined || open.ino !== file!.ino || open.dev !== file!.dev) continue;
    for (const line of lines) {
      const [from, to] = line.trim().split(/\s+/).slice(-2);
      ranges.push([Number(from), to === "EOF" ? Number.POSITIVE_INFINITY : Number(to)]);
    }
  }
  return ranges;
}
