/**
 * In place of `src/disk/intent-log.ts`: the logs lie on the host's stable storage, and each bit is safe
 * before it counts.
 */
import type { Extent } from "../../../src/disk/extents.ts";
import { theWorld } from "../world/present.ts";
import { BLOCK_BYTES } from "../world/storage.ts";
import { current } from "../world/time.ts";

const disk = () => theWorld().hostOf(current()).disk;

export async function newLogPath(): Promise<string> {
  return `intent-${theWorld().nextNumber()}`;
}

export async function readIntents(
  _folder: string,
  _vm: string,
  _disk: number,
  session: string,
): Promise<Extent[] | undefined> {
  const logs = disk().logs.filter((log) => log.session === session);
  if (logs.length === 0) return undefined;
  const blocks = [...new Set(logs.flatMap((log) => [...log.blocks]))].sort((a, b) => a - b);
  return blocks.map((block) => ({ from: block * BLOCK_BYTES, to: (block + 1) * BLOCK_BYTES }));
}

export async function removeIntents(
  _folder: string,
  _vm: string,
  _disk: number,
  keep: readonly string[] = [],
): Promise<void> {
  const here = disk();
  here.logs = here.logs.filter(({ path }) => keep.includes(path));
}
