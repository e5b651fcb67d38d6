/** The firmware that a QEMU has loaded: which files, and what is in them. */
import { execFile } from "node:child_process";
import { access, constants } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { fileDigest } from "./file-digest.ts";

const run = promisify(execFile);

/** Where a QEMU looks for its data, by its program and its own `-L`; a program does not change its mind. */
const known = new Map<string, Promise<readonly string[]>>();

/**
 * Digests of firmware files by the names that QEMU calls them by: 16 hexadecimal digits, or what keeps them
 * from being read.
 * @param program the QEMU that has loaded them, and `args` that it was started with
 */
export async function romDigests(
  names: readonly string[],
  { args, program }: { readonly program: string; readonly args: readonly string[] },
): Promise<[name: string, digest: string][]> {
  const folders = await dataFolders(program, args);
  return await Promise.all(
    names.map(async (name): Promise<[string, string]> => {
      const path = await find(name, folders);
      return [name, path === undefined ? "not found" : fileDigest(path)];
    }),
  );
}

function dataFolders(program: string, args: readonly string[]): Promise<readonly string[]> {
  const own = args.flatMap((word, index) => (/^--?L$/.test(args[index - 1] ?? "") ? ["-L", word] : []));
  const key = [program, ...own].join("\n");
  const folders =
    known.get(key) ?? run(program, [...own, "-L", "help"]).then(({ stdout }) => stdout.trim().split("\n"));
  known.set(key, folders);
  folders.catch(() => known.delete(key));
  return folders;
}

/** As QEMU does: the name may be a path; else the first folder that has it. */
async function find(name: string, folders: readonly string[]): Promise<string | undefined> {
  for (const path of [name, ...folders.map((folder) => join(folder, name))]) {
    const readable = await access(path, constants.R_OK).then(
      () => true,
      () => false,
    );
    if (readable) return path;
  }
  return undefined;
}
