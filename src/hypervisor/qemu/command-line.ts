/**
 * QEMU's command line for a VM, in either role, and what of it the guest can see.
 *
 * Both roles get the same devices in the same order. What differs is where things lead on the host (sockets, files)
 * and, for the standby, that it waits for a stream. There is no -uuid (it would add a part to the stream), no -S (a
 * stream that is loaded runs by itself), no -no-reboot (a reboot of the guest is the guest's own affair).
 */
import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import type { DiskSpec, VmSpec } from "../vm-spec.ts";
import { cloneArguments } from "./clone-args.ts";
import type { DiskImageFacts } from "./disk-image.ts";
import { diskNodes, fileNodeOptions } from "./disk-nodes.ts";
import { type Accelerator, ramKiB } from "./tcg-aids.ts";

export interface QemuPlaces {
  readonly role: "primary" | "standby";
  readonly accelerator: Accelerator;
  /** Paths of the two QMP sockets that QEMU opens: one for orders, one for a watchdog. A monitor takes one client. */
  readonly qmpSockets: readonly [string, string];
  /**
   * RAM as a file, shared with whoever maps it. A standby needs it. A primary only when its RAM is to be compared.
   * Made by QEMU when it is not there; when it is, it must have exactly the size of the RAM.
   */
  readonly ramFile?: string;
  /** The guest's first serial port is appended to this file; without one, what it writes is dropped. */
  readonly serialLog?: string;
  readonly binary?: string;
  /** Of a standby: it is no standby but a clone, which has nothing to do with the outside (clone.ts). */
  readonly clone?: ClonePlaces;
}

/** Where the ends of a clone lie. All are unix sockets' paths but the last. */
export interface ClonePlaces {
  /** A monitor for whoever looks at the clone. */
  readonly monitorSocket: string;
  readonly vncSocket: string;
  /** The guest's first serial port, for one at a time. What it writes is in the log, too. */
  readonly serialSocket: string;
  /** An NBD server with the disks, `diskN`, to be read only. */
  readonly diskSocket: string;
  readonly serialLog: string;
}

/** The block of guest RAM has this name in the stream, on every machine type. */
export const ramBlockName = "pc.ram";

/** The whole command, program first. */
export function qemuCommand(spec: VmSpec, places: QemuPlaces): string[] {
  if (places.role === "standby" && places.ramFile === undefined)
    throw new Error(`VM ${spec.name}: a standby needs a RAM file`);
  return [
    places.binary ?? "qemu-system-x86_64",
    ...["-nodefaults", "-no-user-config", "-display", "none", "-name", `guest=${value(spec.name)}`],
    ...memory(spec, places),
    ...["-cpu", spec.cpu, "-smp", String(spec.vcpus)],
    ...places.qmpSockets.flatMap((path) => ["-qmp", `unix:${value(path)},server=on,wait=off`]),
    ...(places.clone === undefined ? serial(places.serialLog) : cloneEnds(places.clone)),
    ...spec.nics.flatMap((nic, index) => network(spec, nic, index)),
    ...disks(spec, places.clone),
    ...boot(spec),
    ...(places.role === "standby" ? ["-S", "-incoming", "defer"] : []),
    ...(places.clone === undefined ? spec.extraArgs : cloneArguments(spec.extraArgs)),
  ];
}

function memory(spec: VmSpec, places: QemuPlaces): string[] {
  const size = `${ramKiB(spec.memoryMiB, places.accelerator)}K`;
  const machine = `${value(spec.machine)},accel=${places.accelerator}`;
  if (places.ramFile === undefined) return ["-machine", machine, "-m", `size=${size}`];
  const file = `mem-path=${value(places.ramFile)},size=${size},share=on`;
  return [
    ...["-object", `memory-backend-file,id=${ramBlockName},${file}`],
    ...["-machine", `${machine},memory-backend=${ramBlockName}`, "-m", `size=${size}`],
  ];
}

/** The port is there in any case: it is a device, and both hosts must have the same. */
function serial(log: string | undefined): string[] {
  const end = log === undefined ? "null,id=serial0" : `file,id=serial0,path=${value(log)},append=on`;
  return ["-chardev", end, "-serial", "chardev:serial0"];
}

function cloneEnds({ monitorSocket, serialLog, serialSocket, vncSocket }: ClonePlaces): string[] {
  const listening = "server=on,wait=off";
  return [
    ...["-qmp", `unix:${value(monitorSocket)},${listening}`, "-vnc", `unix:${value(vncSocket)}`],
    "-chardev",
    `socket,id=serial0,path=${value(serialSocket)},${listening},logfile=${value(serialLog)}`,
    ...["-serial", "chardev:serial0"],
  ];
}

/**
 * One queue and no vhost: the filters that hold output see nothing else. A guest with a kernel of its own gets no boot
 * ROM: it is not used, and would be one more RAM block whose size depends on the host's package.
 */
function network(spec: VmSpec, nic: VmSpec["nics"][number], index: number): string[] {
  const rom = spec.boot.kind === "kernel" ? ",romfile=" : "";
  return [
    ...["-netdev", `tap,id=net${index},ifname=${value(nic.tap)},script=no,downscript=no,vhost=off`],
    ...["-device", `virtio-net-pci,id=nic${index},netdev=net${index},mac=${nic.mac}${rom}${legacy(nic)}`],
  ];
}

/**
 * A device's id and its nodes' names are those of disk-nodes.ts. One queue: a device saves state for each. Block sizes
 * and the serial number, which the guest sees, are said here, so that no image and no host decides them. Firmware boots
 * from the disks in their order.
 */
function disks({ boot, disks }: VmSpec, clone: ClonePlaces | undefined): string[] {
  const args = disks.flatMap((disk, index) => {
    if (clone !== undefined) return throwAwayDisk(index, clone);
    const { format, file } = diskNodes(index);
    const lower = fileNodeOptions({ index, driver: driverOf(disk), filename: disk.image, noFlush: false });
    const upper = { driver: disk.format, "node-name": format, file, discard: "unmap" };
    return ["-blockdev", JSON.stringify(lower), "-blockdev", JSON.stringify(upper)];
  });
  // With a kernel of its own the guest boots from nothing else, and QEMU gives the first place to that.
  const order = (index: number) => (boot.kind === "firmware" ? `,bootindex=${index}` : "");
  const scsi = disks.find(({ bus }) => bus === "virtio-scsi");
  if (scsi !== undefined) args.push("-device", `virtio-scsi-pci,id=scsi0,num_queues=1${legacy(scsi)}`);
  disks.forEach((disk, index) => {
    const seen = `serial=disk${index},logical_block_size=512,physical_block_size=512${order(index)}`;
    const common = `id=vdisk${index},drive=${diskNodes(index).format},${seen}`;
    if (disk.bus === "virtio-scsi") args.push("-device", `scsi-hd,bus=scsi0.0,scsi-id=${index},${common}`);
    else args.push("-device", `virtio-blk-pci,${common},num-queues=1${legacy(disk)}`);
  });
  return args;
}

/** `snapshot`: what is written goes into a file without a name, in TMPDIR, and is gone with the process. Nothing in it is worth a flush. */
function throwAwayDisk(index: number, { diskSocket }: ClonePlaces): string[] {
  const { format } = diskNodes(index);
  const server = `file.driver=nbd,file.server.type=unix,file.server.path=${value(diskSocket)},file.export=${format}`;
  return ["-drive", `if=none,id=${format},format=raw,${server},snapshot=on,cache=unsafe,discard=unmap`];
}

function driverOf({ image }: DiskSpec): string {
  return statSync(image).isBlockDevice() ? "host_device" : "file";
}

function legacy({ virtio }: Pick<DiskSpec, "virtio">): string {
  return virtio === "legacy" ? ",disable-legacy=off,disable-modern=on" : "";
}

function boot({ boot }: VmSpec): string[] {
  if (boot.kind === "firmware") return [];
  return ["-kernel", boot.kernel, "-initrd", boot.initrd, "-append", boot.append];
}

/** In QEMU's `key=value,…` lists a comma inside a value is written twice. */
function value(text: string): string {
  return text.replaceAll(",", ",,");
}

export type Fingerprint = Readonly<Record<string, string | number>>;

/**
 * What the guest sees of its hardware, and what its device state depends on. The backup compares it with its own
 * before it takes a VM in. Kernel and initrd are compared by content: a guest that reboots after a failover starts
 * from the backup's files.
 */
export function fingerprint(
  spec: VmSpec,
  host: {
    readonly accelerator: Accelerator;
    readonly qemuVersion: string;
    readonly images: readonly DiskImageFacts[];
  },
): Fingerprint {
  const { accelerator, images, qemuVersion } = host;
  const nics = spec.nics.flatMap(({ mac, virtio }, index) => [
    [`nics[${index}].mac`, mac.toLowerCase()] as const,
    [`nics[${index}].virtio`, virtio ?? "standard"] as const,
  ]);
  return {
    qemuVersion,
    accelerator,
    machine: spec.machine,
    cpu: spec.cpu,
    vcpus: spec.vcpus,
    ramKiB: ramKiB(spec.memoryMiB, accelerator),
    nics: spec.nics.length,
    ...Object.fromEntries(nics),
    disks: spec.disks.length,
    ...Object.assign({}, ...spec.disks.map((disk, index) => diskFingerprint(disk, index, images[index]!))),
    ...bootFingerprint(spec),
    extraArgs: JSON.stringify(spec.extraArgs),
  };
}

/** Where the images lie is each host's own affair. */
function diskFingerprint(disk: DiskSpec, index: number, image: DiskImageFacts): Fingerprint {
  const name = `disks[${index}]`;
  return {
    [`${name}.bus`]: disk.bus,
    [`${name}.virtio`]: disk.virtio ?? "standard",
    [`${name}.storage`]: disk.storage,
    [`${name}.format`]: disk.format,
    [`${name} (bytes)`]: image.virtualBytes,
    ...(image.clusterBytes === undefined ? {} : { [`${name} (cluster bytes)`]: image.clusterBytes }),
  };
}

function bootFingerprint({ boot }: VmSpec): Fingerprint {
  if (boot.kind === "firmware") return { boot: "firmware" };
  const { kernel, initrd, append } = boot;
  return {
    boot: "kernel",
    "boot.kernel (sha256)": digest(kernel),
    "boot.initrd (sha256)": digest(initrd),
    "boot.append": append,
  };
}

/** Digests by what a file looks like from outside: they are asked for at each change of roles, in which a guest waits. */
const digests = new Map<string, string>();

function digest(path: string): string {
  const { ctimeMs, dev, ino, mtimeMs, size } = statSync(path);
  const key = [path, dev, ino, size, mtimeMs, ctimeMs].join("\n");
  const known =
    digests.get(key) ?? createHash("sha256").update(readFileSync(path)).digest("hex").slice(0, 16);
  digests.set(key, known);
  return known;
}

/** One sentence on the first field that differs, with both values; `undefined` when there is none. */
export function fingerprintMismatch(primary: Fingerprint, backup: Fingerprint): string | undefined {
  const fields = [...Object.keys(primary), ...Object.keys(backup).filter((key) => !(key in primary))];
  const field = fields.find((key) => primary[key] !== backup[key]);
  if (field === undefined) return undefined;
  const show = (side: Fingerprint) => (field in side ? JSON.stringify(side[field]) : "nothing");
  return (
    `The VM is not the same on both hosts: ${field} is ${show(primary)} at the primary and ` +
    `${show(backup)} at the backup. Make them equal.`
  );
}
