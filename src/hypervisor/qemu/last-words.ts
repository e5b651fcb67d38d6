/** The end of what a QEMU has printed, for the message that tells of its end. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";

const MOST_BYTES = 2000;
const MOST_LINES = 3;

/**
 * @param log the file that it prints to, to which others may have printed before
 * @param from where its own part begins
 * @returns what to put behind a sentence about it: its last lines, and where the rest is
 */
export function lastWords(log: string, from: number): () => string {
  return () => {
    let lines: string[];
    try {
      lines = tail(log, from);
    } catch (error) {
      return `; what it said cannot be read: ${(error as Error).message}`;
    }
    return lines.length === 0 ? `; it said nothing (${log})` : `: ${lines.join(" / ")} (from ${log})`;
  };
}

function tail(log: string, from: number): string[] {
  const file = openSync(log, "r");
  try {
    const { size } = fstatSync(file);
    // A log that was made shorter in the meantime holds nothing older.
    const start = Math.max(size < from ? 0 : from, size - MOST_BYTES);
    const bytes = Buffer.alloc(size - start);
    const read = readSync(file, bytes, 0, bytes.length, start);
    const lines = bytes.toString("utf8", 0, read).split("\n");
    return lines.filter((line) => line.trim() !== "").slice(-MOST_LINES);
  } finally {
    closeSync(file);
  }
}
