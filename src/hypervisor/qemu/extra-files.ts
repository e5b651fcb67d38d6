/**
 * Files that a VM's extra arguments give to the guest: read-only disks, discs, tables and ROMs. Their paths
 * are equal on both hosts, for the arguments are; their contents must be, too. A guest that goes on with
 * another disc below it reads nonsense.
 */
import { type Argument, parseArguments } from "./arguments.ts";
import { sampleDigest } from "./file-digest.ts";

/** What they are by contents, for the fingerprint. A file that cannot be read differs from one that can. */
export function extraFiles(extraArgs: readonly string[]): Record<string, string> {
  const paths = new Set(parseArguments(extraArgs).flatMap(filesOf));
  return Object.fromEntries([...paths].map((path) => [`file ${path} of vm.extraArgs`, contents(path)]));
}

function contents(path: string): string {
  try {
    return sampleDigest(path);
  } catch (error) {
    return `cannot be read: ${(error as NodeJS.ErrnoException).code ?? (error as Error).message}`;
  }
}

/** By option: the properties that name files. */
const named: Readonly<Record<string, readonly string[]>> = {
  acpitable: ["file", "data"],
  boot: ["splash"],
  drive: ["file", "filename", "file.filename"],
  fw_cfg: ["file"],
  "option-rom": ["file"],
  smbios: ["file", "path"],
};

function filesOf({ option, properties, value }: Argument): string[] {
  const words = (named[option] ?? []).flatMap((key) => properties.get(key) ?? []);
  // Several in one value.
  if (option === "acpitable") return paths(words.flatMap((word) => word.split(":")));
  if (option === "cdrom") return paths([value]);
  if (option === "option-rom" && words.length === 0) return paths([value]);
  if (option === "blockdev")
    return paths(value.startsWith("{") ? inJson(value) : [properties.get("filename") ?? ""]);
  return paths(words);
}

/** Of other words QEMU looks into its own folders, or asks a server: those are not this host's files. */
function paths(words: readonly string[]): string[] {
  return words.flatMap((word) => {
    const path = word.replace(/^file:/, "");
    return path.startsWith("/") ? [path] : [];
  });
}

/** All `filename`s, at whatever depth. */
function inJson(text: string): string[] {
  const found: string[] = [];
  try {
    JSON.parse(text, (key, value: unknown) => {
      if (key === "filename" && typeof value === "string") found.push(value);
      return value;
    });
  } catch {
    // Preflight has refused it.
  }
  return found;
}
