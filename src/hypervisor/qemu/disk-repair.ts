/**
 * Whether an image's own structures are whole. QEMU has been seen to hurt qcow2 while it ran
 * (docs/specs/qemu-disks.md), and what is in such an image is not what any record says of it.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

const run = promisify(execFile);
/** Exit codes of `qemu-img check`. What leaks is unused space, and does no harm. */
const CHECK = { damaged: 2, leaks: 3 } as const;
/** Its complaints, one a line, are many where much is wrong. */
const MOST_COMPLAINTS_BYTES = 64 << 20;

/** Reads all of a qcow2 image's structures; nobody may have it open. Rejects when that cannot be done. */
export function isSound(image: string): Promise<boolean> {
  return check(image);
}

/**
 * Mends what is damaged: every cluster is counted anew. What a guest reads may be wrong as before, and is
 * wrong nowhere else. Rejects when it cannot be mended.
 */
export async function repair(image: string): Promise<void> {
  if (!(await check(image, "-r", "all"))) throw new Error(`qemu-img check -r all could not mend ${image}`);
}

async function check(image: string, ...words: readonly string[]): Promise<boolean> {
  try {
    await run("qemu-img", ["check", "-q", "-f", "qcow2", ...words, image], {
      maxBuffer: MOST_COMPLAINTS_BYTES,
    });
    return true;
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code === CHECK.leaks) return true;
    if (code === CHECK.damaged) return false;
    throw error;
  }
}
