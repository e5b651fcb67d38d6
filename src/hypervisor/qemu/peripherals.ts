/** What a VM may have beside its cards and disks: firmware, CDs, and the ends of its ports and its screen. */
import type { CdromSpec, EndSpec, VmSpec } from "../vm-spec.ts";
import { diskNodes } from "./disk-nodes.ts";
import { fileDigest, sampleDigest } from "./file-digest.ts";
import { type Finding, warning } from "./traps.ts";

/** In QEMU's `key=value,…` lists a comma inside a value is written twice. */
export function value(text: string): string {
  return text.replaceAll(",", ",,");
}

export function processors({ topology, vcpus }: VmSpec): string[] {
  if (topology === undefined) return ["-smp", String(vcpus)];
  const { cores, sockets, threads } = topology;
  return ["-smp", `cpus=${vcpus},sockets=${sockets},cores=${cores},threads=${threads}`];
}

/** The variable store is a disk of bus `pflash`, so it is replicated like the others. */
export function firmware({ disks, uefi }: VmSpec): string[] {
  const store = disks.findIndex(({ bus }) => bus === "pflash");
  if (uefi === undefined || store < 0) return [];
  const code = { driver: "raw", "node-name": "uefi-code", "read-only": true, file: readOnly(uefi.code) };
  return [
    ...["-blockdev", JSON.stringify(code)],
    ...["-machine", `pflash0=uefi-code,pflash1=${diskNodes(store).format}`],
  ];
}

function readOnly(filename: string): Record<string, unknown> {
  return { driver: "file", filename, "read-only": true };
}

/**
 * On the machine's own controller, behind the disks in the order of what firmware boots from. A tray without
 * a disc is a device, too.
 */
export function cdroms({ boot, cdroms = [], disks }: VmSpec): string[] {
  return cdroms.flatMap(({ image }, index) => {
    const order = boot.kind === "firmware" ? `,bootindex=${disks.length + index}` : "";
    const device = [
      "-device",
      `ide-cd,id=cdrom${index}${image === undefined ? "" : `,drive=disc${index}`}${order}`,
    ];
    if (image === undefined) return device;
    const disc = { driver: "raw", "node-name": `disc${index}`, "read-only": true, file: readOnly(image) };
    return ["-blockdev", JSON.stringify(disc), ...device];
  });
}

const AGENT_PORT = "org.qemu.guest_agent.0";

/** The devices of the guest's agent and screen: they are there on both hosts, and in a clone. */
export function endDevices({ agent, vnc }: VmSpec): string[] {
  return [
    ...(agent === undefined
      ? []
      : [
          ...["-device", "virtio-serial-pci,id=ports0,max_ports=2"],
          ...["-device", `virtserialport,bus=ports0.0,nr=1,chardev=agent0,name=${AGENT_PORT}`],
        ]),
    ...(vnc === undefined ? [] : ["-device", "VGA,id=screen0"]),
  ];
}

/**
 * Where they lead on this host. The first serial port is there in any case: it is a device, and both hosts
 * must have the same.
 * @param log what the guest writes to that port is appended to this file, too
 */
export function ends({ agent, serial, vnc }: VmSpec, log: string | undefined): string[] {
  return [
    ...["-chardev", serialEnd(serial, log), "-serial", "chardev:serial0"],
    ...(agent === undefined ? [] : ["-chardev", listening("agent0", agent)]),
    ...(vnc === undefined ? [] : ["-vnc", `unix:${value(vnc)}`]),
  ];
}

function serialEnd(serial: EndSpec | undefined, log: string | undefined): string {
  if (serial === undefined)
    return log === undefined ? "null,id=serial0" : `file,id=serial0,path=${value(log)},append=on`;
  const copy = log === undefined ? "" : `,logfile=${value(log)},logappend=on`;
  return "file" in serial
    ? `file,id=serial0,path=${value(serial.file)},append=on${copy}`
    : listening("serial0", serial.socket) + copy;
}

function listening(id: string, path: string): string {
  return `socket,id=${id},path=${value(path)},server=on,wait=off`;
}

/** In a clone these ports lead nowhere. The first serial port and the screen are the clone's own affair. */
export function cloneEnds({ agent }: VmSpec): string[] {
  return agent === undefined ? [] : ["-chardev", "null,id=agent0"];
}

/** Everything by which output leaves unheld is named. */
export function endFindings({ agent, serial, vnc }: VmSpec): Finding[] {
  const named = (field: string, what: string) =>
    warning(
      "unheld-output",
      `${field} ${what}, and Remus holds back only network output. Whoever is at the other end may see what a failover takes back.`,
    );
  return [
    ...(serial === undefined ? [] : [named("vm.serial", "lets the guest speak past the network")]),
    ...(agent === undefined ? [] : [named("vm.agent", "lets the guest's agent speak past the network")]),
    ...(vnc === undefined ? [] : [named("vm.vnc", "shows the guest's screen and takes its keys")]),
  ];
}

/**
 * What of it the guest can see, and both hosts must have the same. Discs are compared by size and by samples.
 */
export function peripheralFingerprint(spec: VmSpec): Record<string, string | number> {
  const { agent, cdroms = [], topology, uefi, vcpus, vnc } = spec;
  const { cores, sockets, threads } = topology ?? { sockets: vcpus, cores: 1, threads: 1 };
  return {
    "topology (sockets/cores/threads)":
      topology === undefined ? "QEMU's own" : `${sockets}/${cores}/${threads}`,
    uefi: uefi === undefined ? "no" : "yes",
    ...(uefi === undefined ? {} : { "uefi.code (sha256)": fileDigest(uefi.code) }),
    cdroms: cdroms.length,
    ...Object.fromEntries(cdroms.map((cdrom, index) => [`cdroms[${index}] (disc)`, disc(cdrom)])),
    agent: agent === undefined ? "no" : "yes",
    vnc: vnc === undefined ? "no" : "yes",
  };
}

function disc({ image }: CdromSpec): string {
  return image === undefined ? "none" : sampleDigest(image);
}

/** Files that must be there and readable before QEMU is started. */
export function peripheralFiles({ cdroms = [], uefi }: VmSpec): string[] {
  return [...(uefi === undefined ? [] : [uefi.code]), ...cdroms.flatMap(({ image }) => image ?? [])];
}
