/** Whether two hosts have the same file: by its contents, or of a large one by samples. */
import { createHash } from "node:crypto";
import { closeSync, fstatSync, openSync, readFileSync, readSync, statSync } from "node:fs";

/**
 * By what a file looks like from outside: digests are asked for at each change of roles, in which a guest
 * waits.
 */
const known = new Map<string, string>();

/** The first 16 hexadecimal digits of the SHA-256 of its contents. */
export function fileDigest(path: string): string {
  return remembered(`whole\n${path}`, path, () =>
    createHash("sha256").update(readFileSync(path)).digest("hex"),
  );
}

const SAMPLE_BYTES = 65536;
const SAMPLES = 64;

/**
 * Of a disc: its size, and 64 KiB at each of 65 places from its first byte to its last. The first ones hold
 * the time at which it was made, so discs that are not the same differ there.
 */
export function sampleDigest(path: string): string {
  return remembered(`samples\n${path}`, path, () => {
    const file = openSync(path, "r");
    try {
      const { size } = fstatSync(file);
      const hash = createHash("sha256").update(String(size));
      const last = Math.max(0, size - SAMPLE_BYTES);
      const bytes = Buffer.alloc(SAMPLE_BYTES);
      for (let sample = 0; sample <= SAMPLES; sample++) {
        const read = readSync(file, bytes, 0, SAMPLE_BYTES, Math.floor((last * sample) / SAMPLES));
        hash.update(bytes.subarray(0, read));
      }
      return hash.digest("hex");
    } finally {
      closeSync(file);
    }
  });
}

function remembered(name: string, path: string, digest: () => string): string {
  const { ctimeMs, dev, ino, mtimeMs, size } = statSync(path);
  const key = [name, dev, ino, size, mtimeMs, ctimeMs].join("\n");
  const found = known.get(key) ?? digest().slice(0, 16);
  known.set(key, found);
  return found;
}
