/**
 * QEMU's command line for a VM, in either role.
 *
 * Both roles get the same devices in the same order. What differs is where things lead on the host (sockets,
 * files) and, for the standby, that it waits for a stream. There is no -uuid (it would add a part to the
 * stream), no -S (a stream that is loaded runs by itself), no -no-reboot (a reboot of the guest is the
 * guest's own affair). QEMU stays when the guest shuts down, so that the guardian ends it when the backup
 * knows (docs/guests.md).
 */
import { statSync } from "node:fs";
import type { DiskSpec, VmSpec } from "../vm-spec.ts";
import { cloneArguments } from "./clone-args.ts";
import { diskNodes, fileNodeOptions } from "./disk-nodes.ts";
import { cdroms, cloneEnds, endDevices, ends, firmware, processors, value } from "./peripherals.ts";
import { type Accelerator, ramKiB } from "./tcg-aids.ts";

export interface QemuPlaces {
  readonly role: "primary" | "standby";
  readonly accelerator: Accelerator;
  /**
   * Paths of the two QMP sockets that QEMU opens: one for orders, one for a watchdog. A monitor takes one
   * client.
   */
  readonly qmpSockets: readonly [string, string];
  /**
   * RAM as a file, shared with whoever maps it. A standby needs it. A primary only when its RAM is to be
   * compared. Made by QEMU when it is not there; when it is, it must have exactly the size of the RAM.
   */
  readonly ramFile?: string;
  /** The guest's first serial port is appended to this file; without one, what it writes is dropped. */
  readonly serialLog?: string;
  readonly binary?: string;
  /** Of a standby: it is no standby but a clone, which has nothing to do with the outside (clone.ts). */
  readonly clone?: ClonePlaces;
  /** Of a standby: it only shows whether it can take a state, and leaves everything as it is (probe.ts). */
  readonly probe?: ProbePlaces;
}

export interface ProbePlaces {
  /** Sizes of the VM's disks, in order. There is nothing behind them. */
  readonly diskBytes: readonly number[];
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
    ...["-cpu", spec.cpu, ...processors(spec)],
    ...places.qmpSockets.flatMap((path) => ["-qmp", `unix:${value(path)},server=on,wait=off`]),
    ...allEnds(spec, places),
    ...spec.nics.flatMap((nic, index) => network(spec, nic, index)),
    ...disks(spec, places),
    ...[...firmware(spec), ...cdroms(spec), ...endDevices(spec)],
    ...boot(spec),
    ...(places.role === "standby" ? ["-S", "-incoming", "defer"] : []),
    ...(places.clone === undefined ? ["-action", "shutdown=pause"] : []),
    ...(places.clone === undefined && places.probe === undefined
      ? spec.extraArgs
      : cloneArguments(spec.extraArgs)),
  ];
}

function memory(spec: VmSpec, places: QemuPlaces): string[] {
  const size = `${ramKiB(spec.memoryMiB, places.accelerator)}K`;
  // Properties may stand behind the type (machine-options.ts).
  const machine = `${spec.machine},accel=${places.accelerator}`;
  if (places.ramFile === undefined) return ["-machine", machine, "-m", `size=${size}`];
  // Machine types before 4.0 would name the block by its object's path, and only where RAM is a file.
  const name = `id=${ramBlockName},x-use-canonical-path-for-ramblock-id=off`;
  // A probe sees what is in the file, and what it writes is its own.
  const share = places.probe === undefined ? "on" : "off";
  const file = `mem-path=${value(places.ramFile)},size=${size},share=${share}`;
  return [
    ...["-object", `memory-backend-file,${name},${file}`],
    ...["-machine", `${machine},memory-backend=${ramBlockName}`, "-m", `size=${size}`],
  ];
}

/** A clone's are looked at by whoever made it; a probe's, as its VM never runs, by nobody. */
function allEnds(spec: VmSpec, { clone, probe, serialLog }: QemuPlaces): string[] {
  if (clone !== undefined) return [...lookingIn(clone), ...cloneEnds(spec)];
  if (probe === undefined) return ends(spec, serialLog);
  return ["-chardev", "null,id=serial0", "-serial", "chardev:serial0", ...cloneEnds(spec)];
}

function lookingIn({ monitorSocket, serialLog, serialSocket, vncSocket }: ClonePlaces): string[] {
  const listening = "server=on,wait=off";
  return [
    ...["-qmp", `unix:${value(monitorSocket)},${listening}`, "-vnc", `unix:${value(vncSocket)}`],
    "-chardev",
    `socket,id=serial0,path=${value(serialSocket)},${listening},logfile=${value(serialLog)}`,
    ...["-serial", "chardev:serial0"],
  ];
}

/**
 * One queue and no vhost: the filters that hold output see nothing else. A guest with a kernel of its own
 * gets no boot ROM: it is not used, and would be one more RAM block whose size depends on the host's package.
 */
function network(spec: VmSpec, nic: VmSpec["nics"][number], index: number): string[] {
  const rom = spec.boot.kind === "kernel" ? ",romfile=" : "";
  return [
    ...["-netdev", `tap,id=net${index},ifname=${value(nic.tap)},script=no,downscript=no,vhost=off`],
    ...["-device", `virtio-net-pci,id=nic${index},netdev=net${index},mac=${nic.mac}${rom}${legacy(nic)}`],
  ];
}

/**
 * A device's id and its nodes' names are those of disk-nodes.ts. One queue: a device saves state for each.
 * Block sizes and the serial number, which the guest sees, are said here, so that no image and no host
 * decides them. Firmware boots from the disks in their order.
 */
function disks({ boot, disks }: VmSpec, { clone, probe }: QemuPlaces): string[] {
  const args = disks.flatMap((disk, index) => {
    if (clone !== undefined) return throwAwayDisk(index, clone);
    if (probe !== undefined) return emptyDisk(index, probe);
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
    if (disk.bus === "pflash") return;
    if (disk.bus === "virtio-scsi") args.push("-device", `scsi-hd,bus=scsi0.0,scsi-id=${index},${common}`);
    else args.push("-device", `virtio-blk-pci,${common},num-queues=1${legacy(disk)}`);
  });
  return args;
}

/**
 * `snapshot`: what is written goes into a file without a name, in TMPDIR, and is gone with the process.
 * Nothing in it is worth a flush.
 */
function throwAwayDisk(index: number, { diskSocket }: ClonePlaces): string[] {
  const { format } = diskNodes(index);
  const server = `file.driver=nbd,file.server.type=unix,file.server.path=${value(diskSocket)},file.export=${format}`;
  return ["-drive", `if=none,id=${format},format=raw,${server},snapshot=on,cache=unsafe,discard=unmap`];
}

/** Its state is loaded and it never runs: nothing is read or written. */
function emptyDisk(index: number, { diskBytes }: ProbePlaces): string[] {
  const { format } = diskNodes(index);
  return ["-blockdev", JSON.stringify({ driver: "null-co", "node-name": format, size: diskBytes[index] })];
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
