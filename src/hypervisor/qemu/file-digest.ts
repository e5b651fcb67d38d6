/** What is in a file, in few characters. */
import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";

/** By what a file looks like from outside: they are asked for at each change of roles, in which a guest waits. */
const digests = new Map<string, string>();

/** The first 16 hexadecimal digits of the SHA-256 of its contents. */
export function fileDigest(path: string): string {
  const { ctimeMs, dev, ino, mtimeMs, size } = statSync(path);
  const key = [path, dev, ino, size, mtimeMs, ctimeMs].join("\n");
  const known =
    digests.get(key) ?? createHash("sha256").update(readFileSync(path)).digest("hex").slice(0, 16);
  digests.set(key, known);
  return known;
}
