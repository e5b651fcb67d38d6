/**
 * Two aids for software emulation (TCG), where there is no usable KVM: for tests and for trying Remus out.
 * They go round two bugs of QEMU that KVM does not meet, and are used only when the accelerator is `tcg`.
 *
 * 1. COLO deadlocks: QEMU up to 10.2. Cured by a small library loaded before QEMU's own code (cond-wait.c,
 *   which tells the story). From 11.0 on RAM is sent with the big lock held, and the library is left out.
 * 2. Dirty pages are lost when RAM is a multiple of 256 KiB: seen with 7.2.22, by comparing RAM byte for
 *   byte. A fast path of the dirty bitmap works on whole words of 64 pages and forgets to reset the TLB. RAM
 *   that does not end on such a word takes the slow path, which is right, at about 1 ms per checkpoint of 256
 *   MiB. No version is known to have mended it, so it is done with all.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { access, mkdir, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

export type Accelerator = "kvm" | "tcg";

const run = promisify(execFile);
const source = join(dirname(fileURLToPath(import.meta.url)), "tcg-aids", "cond-wait.c");
const flags = ["-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"];
const ODD_KIB = 8;

/** Whether this QEMU deadlocks in COLO under software emulation, if it is not helped. */
export function needsLibrary({ major }: { readonly major: number }): boolean {
  return major <= 10;
}

/** What the user is told when the aids are on. */
export function tcgNotice(library: boolean): string {
  const ram = `${ODD_KIB} KiB more RAM so that no dirty page is lost`;
  return (
    "No usable KVM: the VM runs under software emulation (TCG), with " +
    `${library ? `two aids against QEMU bugs of it: a preloaded library against a COLO deadlock, and ${ram}` : `an aid against a QEMU bug of it: ${ram}`}. ` +
    "Good for trying out and for tests; take no speed figures from it."
  );
}

/** The guest's RAM in KiB. Under TCG a little more than asked for (see 2. above); the same on both hosts. */
export function ramKiB(memoryMiB: number, accelerator: Accelerator): number {
  return memoryMiB * 1024 + (accelerator === "tcg" ? ODD_KIB : 0);
}

/**
 * Compiles the library against the COLO deadlock, once per version of its source.
 * @returns the absolute path for QEMU's `LD_PRELOAD`
 * @throws when there is no `gcc`, or it refuses the source
 */
export async function buildTcgAids(cacheDir: string): Promise<string> {
  const key = createHash("sha256")
    .update(await readFile(source))
    .update([process.arch, ...flags].join(" "))
    .digest("hex")
    .slice(0, 16);
  const library = join(cacheDir, `cond-wait-${key}.so`);
  const built = await access(library).then(
    () => true,
    () => false,
  );
  if (built) return library;
  await mkdir(cacheDir, { recursive: true });
  // Two guardians may build at once: each into a file of its own, then into place in one step.
  const partial = `${library}.${process.pid}`;
  try {
    await run("gcc", [...flags, "-o", partial, source, "-ldl"]);
    await rename(partial, library);
  } catch (error) {
    await rm(partial, { force: true });
    throw buildError(error);
  }
  return library;
}

function buildError(cause: unknown): Error {
  const { code, stderr } = cause as { code?: unknown; stderr?: string };
  if (code === "ENOENT") {
    return new Error(
      "gcc is missing; it builds the library that QEMU needs under software emulation. " +
        "Install it (apt-get install gcc libc6-dev), or run where KVM works.",
      { cause },
    );
  }
  return new Error(`gcc cannot build ${source}: ${stderr || String(cause)}`, { cause });
}
