/**
 * What is known to go wrong with which QEMU version. From its sources (7.2.22, 10.0.13, 10.2.2, 11.1) and
 * trials on 7.2.22. COLO is marked unstable in all of them.
 */
import { type Accelerator, needsLibrary } from "./tcg-aids.ts";

/**
 * One thing that preflight found. The message is one clear sentence on what is wrong, and one on what to do.
 */
export interface Finding {
  /** Stable; for programs and tests. */
  readonly code: string;
  /** An `error` forbids protection; a `warning` is told and allows it. */
  readonly severity: "error" | "warning";
  readonly message: string;
}

export interface QemuVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
}

export interface TrapOptions {
  /** The dirty page ring of KVM is on (`-accel kvm,dirty-ring-size=…`). */
  readonly dirtyRing: boolean;
  /** The library of tcg-aids.ts is loaded. */
  readonly library: boolean;
}

/**
 * Reads `7.2.22` or the first line of `qemu-system-x86_64 --version`; `undefined` when there is no version in
 * it.
 */
export function parseQemuVersion(text: string): QemuVersion | undefined {
  const match = /(?:^|version )(\d+)\.(\d+)\.(\d+)/.exec(text);
  return match === null
    ? undefined
    : { major: Number(match[1]), minor: Number(match[2]), micro: Number(match[3]) };
}

export function showVersion({ major, minor, micro }: QemuVersion): string {
  return `${major}.${minor}.${micro}`;
}

/** The traps that this version, used in this way, would step into. */
export function qemuTraps(version: QemuVersion, accelerator: Accelerator, options: TrapOptions): Finding[] {
  const found: Finding[] = [];
  const name = `QEMU ${showVersion(version)}`;
  const upTo10 = version.major <= 10;

  if (isBefore(version, 7, 2))
    found.push(warning("qemu-old", `${name} is older than what Remus was tried with. Use 7.2 or later.`));
  if (coloBroken(version))
    found.push(
      error(
        "qemu-colo-broken",
        `${name} cannot do COLO: it ends it like an ordinary migration. ${upgradeOf(version)}`,
      ),
    );
  if (upTo10 && options.dirtyRing)
    found.push(
      error(
        "qemu-dirty-ring",
        `${name} aborts when COLO meets a dirty ring. Remove dirty-ring-size from -accel.`,
      ),
    );
  if (accelerator === "tcg" && !options.library && needsLibrary(version))
    found.push(
      error(
        "qemu-tcg-unaided",
        `Under software emulation ${name} deadlocks in COLO. ` +
          "Let Remus start the VM itself: it has a library against that. Or use KVM.",
      ),
    );
  return found;
}

/** 10.0.7 and 10.2.0 mended it. Of 10.1 no release is known to have it. */
function coloBroken({ major, minor, micro }: QemuVersion): boolean {
  return major === 10 && ((minor === 0 && micro < 7) || minor === 1);
}

/** Where the version with the mend comes from, for those who have the broken one from a distribution. */
function upgradeOf({ minor }: QemuVersion): string {
  return minor === 0
    ? "Upgrade to 10.0.7 or later: Debian 13 has it (apt-get update; apt-get install qemu-system-x86, 1:10.0.7+ds or later), SUSE 16 has 10.0.8, Proxmox VE 9 has pve-qemu-kvm 10.2.1."
    : "Upgrade to 10.2 or later (Proxmox VE 9: pve-qemu-kvm 10.2.1; Ubuntu 26.04: 10.2.1).";
}

function isBefore(version: QemuVersion, major: number, minor: number): boolean {
  return version.major < major || (version.major === major && version.minor < minor);
}

export function error(code: string, message: string): Finding {
  return { code, severity: "error", message };
}

export function warning(code: string, message: string): Finding {
  return { code, severity: "warning", message };
}
