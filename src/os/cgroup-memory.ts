/**
 * Memory that this process and what it starts may still take by the limits of its control groups (cgroups(7);
 * systemd's MemoryMax= and MemoryHigh= set them). The kernel kills somebody of the group who goes beyond:
 * QEMU, since it is the largest.
 */
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";

export interface CgroupMemory {
  readonly bytes: number;
  /** The file with the limit. */
  readonly limit: string;
}

/** What is left by the narrowest of the limits; undefined if there is none, or none that can be read. */
export async function cgroupMemory(
  at = { self: "/proc/self/cgroup", root: "/sys/fs/cgroup" },
): Promise<CgroupMemory | undefined> {
  const lines = (await text(at.self)).split("\n");
  const group = (line: RegExp) => lines.map((one) => line.exec(one)?.[1]).find((path) => path !== undefined);
  const [second, first] = [group(/^0::(.*)$/), group(/^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$/)];
  const found = [
    ...(second === undefined
      ? []
      : await limits(at.root, second, ["memory.max", "memory.high"], "memory.current")),
    ...(first === undefined
      ? []
      : await limits(join(at.root, "memory"), first, ["memory.limit_in_bytes"], "memory.usage_in_bytes")),
  ];
  return found.sort((a, b) => a.bytes - b.bytes)[0];
}

/** Of a group and all above it. */
async function limits(
  root: string,
  group: string,
  files: readonly string[],
  usage: string,
): Promise<CgroupMemory[]> {
  const found: CgroupMemory[] = [];
  for (let path = join("/", group); ; path = dirname(path)) {
    const folder = join(root, path);
    const used = Number(await text(join(folder, usage)));
    for (const file of files) {
      const limit = join(folder, file);
      // "max", or nothing: there is none. Without one cgroup v1 says 2^63, rounded to pages.
      const most = Number.parseInt(await text(limit), 10);
      if (!Number.isFinite(most) || most > 2 ** 60) continue;
      found.push({ bytes: Math.max(0, most - used + (await reclaimable(folder))), limit });
    }
    if (path === "/") return found;
  }
}

/**
 * What the kernel takes back of itself before it kills: pages of files that are not in memory alone (tmpfs is
 * counted elsewhere).
 */
async function reclaimable(folder: string): Promise<number> {
  const stat = await text(join(folder, "memory.stat"));
  const of = (name: string) => Number(new RegExp(`^${name} (\\d+)$`, "m").exec(stat)?.[1] ?? 0);
  return of("inactive_file") + of("active_file");
}

async function text(path: string): Promise<string> {
  return (await readFile(path, "utf8").catch(() => "")).trim();
}
