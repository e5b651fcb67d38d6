/** Invariant I7 for disks, looked at from outside: whether a guest would read the same from two images. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { Mapping } from "../os/mapping.ts";

const run = promisify(execFile);
const STEP_BYTES = 4 << 20;
const BLOCK_BYTES = 4096;
/** Of many differences these are enough to look at. */
const MOST_OFFSETS = 32;

export interface DiskCheck {
  readonly disk: number;
  /** Where blocks of 4 KiB differ, in bytes; the first few. Of qcow2 only the first. */
  readonly offsets: readonly number[];
}

/** Compares what a guest would read from two images; both must hold still. */
export async function differingOffsets(
  pathA: string,
  pathB: string,
  format: "raw" | "qcow2",
): Promise<number[]> {
  return format === "raw" ? await compareRaw(pathA, pathB) : await compareQcow2(pathA, pathB);
}

/** Mapped, since the VM is held meanwhile and this is several times quicker than reading. */
async function compareRaw(pathA: string, pathB: string): Promise<number[]> {
  const a = Mapping.file(pathA, "read");
  const b = Mapping.file(pathB, "read");
  try {
    const size = a.bytes.length;
    if (size !== b.bytes.length) throw new Error(`${pathA} and ${pathB} are not of the same size`);
    const offsets: number[] = [];
    for (let at = 0; at < size && offsets.length < MOST_OFFSETS; at += STEP_BYTES) {
      const length = Math.min(STEP_BYTES, size - at);
      if (a.equals(b, at, length)) continue;
      for (let block = at; block < at + length; block += BLOCK_BYTES)
        if (!a.equals(b, block, Math.min(BLOCK_BYTES, at + length - block))) offsets.push(block);
    }
    return offsets.slice(0, MOST_OFFSETS);
  } finally {
    a.close();
    b.close();
  }
}

/** Two QEMUs have the images open, so it looks past their locks. */
async function compareQcow2(pathA: string, pathB: string): Promise<number[]> {
  try {
    await run("qemu-img", ["compare", "-U", "-f", "qcow2", "-F", "qcow2", pathA, pathB]);
    return [];
  } catch (error) {
    const { code, stdout } = error as { code?: number; stdout?: string };
    const offset = /mismatch at offset (\d+)/.exec(stdout ?? "")?.[1];
    if (code !== 1 || offset === undefined) throw error;
    return [Number(offset)];
  }
}
