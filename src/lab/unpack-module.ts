/** Kernel modules as Debian packs them: plain, or compressed as their suffix says. */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { gunzipSync, zstdDecompressSync } from "node:zlib";

const run = promisify(execFile);
const LONGEST_MODULE = 64 << 20;

/**
 * The suffixes of a module's file, and what gives the module itself: Debian 12 packs none, 13 packs with xz.
 */
const unpackers: Readonly<Record<string, (file: string) => Promise<Uint8Array>>> = {
  ".ko": readFile,
  ".ko.gz": async (file) => gunzipSync(await readFile(file), { maxOutputLength: LONGEST_MODULE }),
  ".ko.zst": async (file) => zstdDecompressSync(await readFile(file), { maxOutputLength: LONGEST_MODULE }),
  ".ko.xz": async (file) => {
    // Node has no xz. The guest's own busybox does, so nothing more need be installed.
    const { stdout } = await run("busybox", ["xzcat", file], {
      encoding: "buffer",
      maxBuffer: LONGEST_MODULE,
    });
    return stdout;
  },
};

/** The names that the file of module `name` may have. */
export function moduleFileNames(name: string): string[] {
  return Object.keys(unpackers).map((suffix) => `${name}${suffix}`);
}

/** The module in `file`, ready for insmod. @throws with the file's name when it cannot be read or unpacked */
export async function unpackModule(file: string): Promise<Uint8Array> {
  const suffix = /\.ko(\.[a-z]+)?$/.exec(file)?.[0] ?? "";
  const unpack = unpackers[suffix];
  if (unpack === undefined) throw new Error(`${file} is packed in a way that is not known here`);
  try {
    const module = await unpack(file);
    // Busybox hands on what it cannot read as it is.
    if (Buffer.from(module.subarray(0, 4)).toString("latin1") !== "\u007fELF")
      throw new Error("what is in it is no ELF file");
    return module;
  } catch (cause) {
    throw new Error(`the kernel module ${file} cannot be unpacked: ${(cause as Error).message}`, { cause });
  }
}
