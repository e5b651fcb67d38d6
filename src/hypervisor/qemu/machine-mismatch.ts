/**
 * Whether a backup could go on with a primary's VM, by what both tell of their machines. Each difference has
 * a sentence that names it.
 *
 * With the same QEMU version on both hosts everything must be equal. Towards a newer one, as in a rolling
 * upgrade, only what a VM keeps over a change of version: QEMU itself sees to the rest by the machine type,
 * and checkpoint 0, which a QEMU of the backup loads on trial (probe.ts), is the proof. QEMU promises nothing
 * for the way back, so that is refused.
 */
import { featureNames } from "./cpu-features.ts";
import type { Fingerprint } from "./fingerprint.ts";
import { GROUPS } from "./fingerprint-groups.ts";
import { parseQemuVersion, type QemuVersion } from "./traps.ts";

export interface Comparison {
  /** Why there is no protection: one sentence, and what to do. */
  readonly refusal: string | undefined;
  /** What is told, and does not stand in the way. */
  readonly warning: string | undefined;
}

export function compareMachines(primary: Fingerprint, backup: Fingerprint): Comparison {
  const [ours, theirs] = [primary, backup].map(({ qemuVersion }) => parseQemuVersion(String(qemuVersion)));
  const order = ours === undefined || theirs === undefined ? 0 : compareVersions(ours, theirs);
  const versions = `QEMU ${primary.qemuVersion} at the primary and ${backup.qemuVersion} at the backup`;
  if (order > 0)
    return {
      refusal: `The backup's QEMU is older (${versions}), and QEMU hands a VM on to the same version or a newer one only. Upgrade the backup's.`,
      warning: undefined,
    };
  const upgrade = order < 0;
  const refusal = sameImage(primary, backup) ?? firstDifference(primary, backup, upgrade);
  if (upgrade)
    return {
      refusal,
      warning: told([
        `${versions}: after a failover or switchover there is no way back until the other host has the newer one, too.`,
        ...smallerMtus(primary, backup),
      ]),
    };
  const packages = primary.qemuPackage !== backup.qemuPackage;
  const text = `QEMU is of package "${primary.qemuPackage}" at the primary and "${backup.qemuPackage}" at the backup; install the same one on both.`;
  return { refusal, warning: told([...smallerMtus(primary, backup), ...(packages ? [text] : [])]) };
}

function told(sentences: readonly string[]): string | undefined {
  return sentences.length === 0 ? undefined : sentences.join(" ");
}

/** A guest that was set up for large frames loses them where a tap lets none through. */
function smallerMtus(primary: Fingerprint, backup: Fingerprint): string[] {
  return Object.entries(primary).flatMap(([key, here]) => {
    const there = backup[key];
    if (!key.startsWith(GROUPS.mtu) || there === undefined || Number(there) >= Number(here)) return [];
    return [
      `${key} is ${here} at the primary and ${there} at the backup: after a failover larger frames of the guest ` +
        "are lost. Give the backup's tap and bridge the same one (ip link set TAP mtu …), if the guest sends such.",
    ];
  });
}

function firstDifference(primary: Fingerprint, backup: Fingerprint, upgrade: boolean): string | undefined {
  const cpu = cpuDifference(primary, backup, upgrade);
  const fields = [...Object.keys(primary), ...Object.keys(backup).filter((key) => !(key in primary))];
  const differing = fields.filter(
    (key) =>
      primary[key] !== backup[key] && counts(key, key in primary, upgrade) && !key.startsWith(GROUPS.cpuid),
  );
  // A device that is missing has missing RAM blocks, too, and a ROM of another size another block: the cause
  // is named.
  const rank = (key: string) =>
    [GROUPS.device, GROUPS.rom, GROUPS.ram].findIndex((group) => key.startsWith(group));
  const [field] = differing.sort((a, b) => rank(a) - rank(b));
  if (field === undefined || (rank(field) >= 0 && cpu !== undefined)) return cpu;
  return sentence(field, primary[field], backup[field]);
}

/** A replicated disk whose image is one of the other host's: both would write to it, one behind the other. */
function sameImage(primary: Fingerprint, backup: Fingerprint): string | undefined {
  const images = (one: Fingerprint) => Object.entries(one).filter(([key]) => key.startsWith(GROUPS.image));
  for (const [key, identity] of images(primary)) {
    const [theirs] = images(backup).find(([, other]) => other === identity) ?? [];
    if (theirs === undefined) continue;
    const [here, there] = [theirs, key].map((name) => name.slice(GROUPS.image.length));
    return (
      `The image of ${here} at the backup is that of ${there} at the primary, on storage that both hosts ` +
      `see (${identity}), and the backup would destroy the running VM's disk. Give it an image of its own ` +
      "(make a new file: cp --sparse=always), or say storage: shared on both hosts."
    );
  }
  return undefined;
}

/** Whether a difference in that field matters. */
function counts(key: string, atPrimary: boolean, upgrade: boolean): boolean {
  if (key === "qemuPackage" || key.startsWith(GROUPS.image) || key.startsWith(GROUPS.mtu)) return false;
  if (!upgrade) return true;
  if (key === "qemuVersion" || key.startsWith(GROUPS.rom)) return false;
  // What QEMU makes by itself may have another shape in another version.
  if (key.startsWith(GROUPS.ram)) return atPrimary && !key.includes("/rom@");
  if (key.startsWith(GROUPS.drive)) return !key.includes("/");
  if (key.startsWith(GROUPS.device)) return key.includes('"');
  return !/^CPU's (level|xlevel|phys-bits|model-id)$/.test(key);
}

function sentence(
  field: string,
  primary: string | number | undefined,
  backup: string | number | undefined,
): string {
  const show = (value: string | number | undefined) =>
    value === undefined ? "nothing" : JSON.stringify(value);
  const values = `${field} is ${show(primary)} at the primary and ${show(backup)} at the backup`;
  if (field.startsWith(GROUPS.device) && backup === undefined)
    return `The running VM has the ${field}, and the standby has not. Take it out of the VM (device_del), or give it to both hosts in their files and start the VM anew.`;
  if (field.startsWith(GROUPS.device) && primary === undefined)
    return `The standby has the ${field}, and the running VM has not: it was unplugged. Take it out of both hosts' files and start the backup anew, or start the VM anew.`;
  if (field.startsWith(GROUPS.rom))
    return `The VM's firmware is not the same on both hosts: ${values}. Install the same version of its package on both (seabios, ipxe-qemu, ovmf).`;
  if (field === "machine type")
    return `The VM is not the same on both hosts: ${values}. Write the first into vm.machine on both.`;
  return `The VM is not the same on both hosts: ${values}. Make them equal.`;
}

/** What the guest's CPU can do here and not there. Towards a newer QEMU it may come to be able to do more. */
function cpuDifference(primary: Fingerprint, backup: Fingerprint, upgrade: boolean): string | undefined {
  const registers = new Set([...Object.keys(primary), ...Object.keys(backup)].filter(isRegister));
  const only = (one: Fingerprint, other: Fingerprint) =>
    [...registers].flatMap((key) =>
      featureNames(key.slice(GROUPS.cpuid.length), without(Number(one[key] ?? 0), Number(other[key] ?? 0))),
    );
  const [lost, gained] = [only(primary, backup), upgrade ? [] : only(backup, primary)];
  if (lost.length + gained.length === 0) return undefined;
  const parts = [
    ...(lost.length > 0 ? [`only at the primary: ${lost.join(", ")}`] : []),
    ...(gained.length > 0 ? [`only at the backup: ${gained.join(", ")}`] : []),
  ];
  return `The guest's CPU is not the same on both hosts (${parts.join("; ")}). Name a model in vm.cpu that both hosts can be.`;
}

function isRegister(key: string): boolean {
  return key.startsWith(GROUPS.cpuid);
}

/** The bits of `a`, 32 of them, that are not in `b`. */
function without(a: number, b: number): number {
  return (a & ~b) >>> 0;
}

function compareVersions(a: QemuVersion, b: QemuVersion): number {
  return a.major - b.major || a.minor - b.minor || a.micro - b.micro;
}
