/**
 * What must be equal on both hosts of a VM, for one to go on with what the other has: gathered by each,
 * compared by the backup (machine-mismatch.ts).
 */
import type { DiskSpec, VmSpec } from "../vm-spec.ts";
import type { DiskImageFacts } from "./disk-image.ts";
import { extraFiles } from "./extra-files.ts";
import { fileDigest } from "./file-digest.ts";
import { GROUPS } from "./fingerprint-groups.ts";
import { peripheralFingerprint } from "./peripherals.ts";
import { type Accelerator, ramKiB } from "./tcg-aids.ts";

export type Fingerprint = Readonly<Record<string, string | number>>;

/**
 * What the guest sees of its hardware, and what its device state depends on. The backup compares it with its
 * own before it takes a VM in. Kernel and initrd are compared by content: a guest that reboots after a
 * failover starts from the backup's files.
 */
export function fingerprint(
  spec: VmSpec,
  host: {
    readonly accelerator: Accelerator;
    readonly qemuVersion: string;
    /** Of the distribution that it comes from. */
    readonly qemuPackage: string;
    readonly images: readonly DiskImageFacts[];
    /** What QEMU itself tells of the machine (running-machine.ts). */
    readonly running: Fingerprint;
    /** What QEMU has loaded: `bootFingerprint` of the time when it was started. */
    readonly boot: Fingerprint;
  },
): Fingerprint {
  const { accelerator, boot, images, qemuPackage, qemuVersion, running } = host;
  const nics = spec.nics.flatMap(({ mac, virtio }, index) => [
    [`nics[${index}].mac`, mac.toLowerCase()] as const,
    [`nics[${index}].virtio`, virtio ?? "standard"] as const,
  ]);
  return {
    qemuVersion,
    qemuPackage,
    accelerator,
    // The type is compared as QEMU resolves it: `pc` is another machine with each version.
    "machine options": spec.machine.split(",").slice(1).join(","),
    cpu: spec.cpu,
    vcpus: spec.vcpus,
    ramKiB: ramKiB(spec.memoryMiB, accelerator),
    nics: spec.nics.length,
    ...Object.fromEntries(nics),
    disks: spec.disks.length,
    ...Object.assign({}, ...spec.disks.map((disk, index) => diskFingerprint(disk, index, images[index]!))),
    ...boot,
    ...peripheralFingerprint(spec),
    extraArgs: JSON.stringify(spec.extraArgs),
    ...extraFiles(spec.extraArgs),
    ...running,
  };
}

/** Where the images lie is each host's own affair, but for those that are one and the same. */
function diskFingerprint(disk: DiskSpec, index: number, image: DiskImageFacts): Fingerprint {
  const name = `disks[${index}]`;
  return {
    [`${name}.bus`]: disk.bus,
    [`${name}.virtio`]: disk.virtio ?? "standard",
    [`${name}.storage`]: disk.storage,
    [`${name}.format`]: disk.format,
    [`${name} (bytes)`]: image.virtualBytes,
    ...(image.clusterBytes === undefined ? {} : { [`${name} (cluster bytes)`]: image.clusterBytes }),
    ...(image.identity === undefined || disk.storage === "shared"
      ? {}
      : { [`${GROUPS.image}${name}`]: image.identity }),
  };
}

/**
 * Kernel and initrd by their contents. To be taken when QEMU is started, which reads them then and never
 * again: later they may be others, or gone.
 * @throws what the file system says
 */
export function bootFingerprint({ boot }: Pick<VmSpec, "boot">): Fingerprint {
  if (boot.kind === "firmware") return { boot: "firmware" };
  const { kernel, initrd, append } = boot;
  return {
    boot: "kernel",
    "boot.kernel (sha256)": fileDigest(kernel),
    "boot.initrd (sha256)": fileDigest(initrd),
    "boot.append": append,
  };
}
