/** What a user's extra QEMU arguments would break, read off the arguments alone. Part of preflight. */
import { error, type Finding, warning } from "./traps.ts";

export interface Argument {
  /** Without its dashes: `device`. */
  readonly option: string;
  /** As it was written; empty without one. */
  readonly value: string;
  /** As it was written, for messages. */
  readonly text: string;
  /** What stands before the first comma without a `key=`: the driver of a `-device`, the type of a `-netdev`. */
  readonly head: string;
  readonly properties: ReadonlyMap<string, string>;
}

/** Findings on `vm.extraArgs`. */
export function extraArgsFindings(extraArgs: readonly string[]): Finding[] {
  return parseArguments(extraArgs).flatMap((argument) => {
    const found = rules.find(({ applies }) => applies(argument));
    return found === undefined ? [] : [found.finding(argument)];
  });
}

/** Whether QEMU was told to use KVM's dirty ring: in `-accel kvm,dirty-ring-size=N`. */
export function asksForDirtyRing(args: readonly string[]): boolean {
  return parseArguments(args).some(
    ({ option, properties }) => option === "accel" && Number(properties.get("dirty-ring-size") ?? 0) > 0,
  );
}

const ours = "accel cpu daemonize display enable-kvm incoming initrd kernel append loadvm m machine M name";
const alsoOurs = "no-kvm preconfig S smp snapshot mem-path uuid";
const reserved = new Set([...ours.split(" "), ...alsoOurs.split(" ")]);
const nicDrivers = /^(virtio-net|e1000|rtl8139|ne2k|pcnet|vmxnet|tulip|i8255|igb|usb-net)/;

interface Rule {
  readonly applies: (argument: Argument) => boolean;
  readonly finding: (argument: Argument) => Finding;
}

/** The first that applies speaks. */
const rules: readonly Rule[] = [
  {
    applies: ({ option, head, properties }) =>
      (option === "netdev" && /^vhost-/.test(head)) ||
      on(properties.get("vhost")) ||
      properties.has("vhostfd"),
    finding: said("vhost", "moves frames past QEMU, where Remus cannot hold them", "Leave vhost out."),
  },
  {
    applies: ({ properties }) => Number(properties.get("queues") ?? 1) > 1 || on(properties.get("mq")),
    finding: said("multiqueue", "asks for several queues; Remus holds the output of one", "Use one queue."),
  },
  {
    applies: ({ option, head }) =>
      ["netdev", "nic", "net"].includes(option) || (option === "device" && nicDrivers.test(head)),
    finding: said(
      "extra-nic",
      "adds a network card whose output Remus would not hold",
      "Put it into vm.nics.",
    ),
  },
  {
    applies: ({ option, head }) => option === "device" && /^vfio-/.test(head),
    finding: said(
      "vfio",
      "gives the VM a real device, whose state cannot be copied",
      "Use a virtual device.",
    ),
  },
  {
    applies: ({ option, head }) => option === "device" && /^ivshmem-/.test(head),
    finding: said("ivshmem", "shares memory that is not part of any checkpoint", "Remove it."),
  },
  {
    applies: ({ option, head }) =>
      option === "virtfs" || option === "fsdev" || (option === "device" && /^virtio-9p/.test(head)),
    finding: said(
      "shared-directory",
      "shares a directory of this host, which the backup lacks",
      "Remove it.",
    ),
  },
  {
    applies: ({ option, head }) => option === "device" && /^vhost-/.test(head),
    finding: said("vhost", "keeps device state outside QEMU, where no checkpoint sees it", "Remove it."),
  },
  {
    applies: ({ option, head }) => option === "device" && unmigratable.test(head),
    finding: said("unmigratable", "is a device whose state QEMU cannot hand on", "Remove it."),
  },
  {
    applies: ({ option, properties }) =>
      isDisk(option) && !on(properties.get("readonly") ?? properties.get("read-only")),
    finding: said(
      "unprotected-disk",
      "adds a disk that Remus would not copy",
      "Put it into vm.disks, or make it read-only (readonly=on).",
    ),
  },
  {
    applies: ({ option }) => reserved.has(option),
    finding: said("reserved-argument", "is set by Remus itself", "Use the fields of vm instead."),
  },
  {
    applies: ({ option, head }) =>
      option === "chardev" && /^(socket|udp|pty|pipe|serial|parallel)$/.test(head),
    finding: ({ text }) =>
      warning(
        "unheld-output",
        `vm.extraArgs: "${text}" lets the guest speak past the network, and Remus holds back only network output. ` +
          "Whoever listens there may see what a failover takes back.",
      ),
  },
];

/** Read off QEMU's sources and blockers; what is not here, the live check finds by QEMU's own list. */
const unmigratable =
  /^(usb-host|usb-mtp|nvme|virtio-(gpu|vga)-gl|igb|pvrdma|sgx-|scsi-generic|scsi-block|edu$)/;

function isDisk(option: string): boolean {
  return ["drive", "blockdev", "hda", "hdb", "hdc", "hdd", "fda", "fdb", "sd", "mtdblock", "pflash"].includes(
    option,
  );
}

function said(code: string, what: string, todo: string): (argument: Argument) => Finding {
  return ({ text }) => error(code, `vm.extraArgs: "${text}" ${what}. ${todo}`);
}

function on(value: string | undefined): boolean {
  return value === "on" || value === "yes" || value === "true" || value === "y";
}

/** QEMU takes `-option` and `--option`, each with at most one value, which does not begin with a dash. */
export function parseArguments(args: readonly string[]): Argument[] {
  const found: Argument[] = [];
  for (let i = 0; i < args.length; i++) {
    const dashes = /^--?(?=[A-Za-z])/.exec(args[i]!);
    if (dashes === null) continue;
    const option = args[i]!.slice(dashes[0].length);
    const next = args[i + 1];
    const value = next !== undefined && !next.startsWith("-") ? next : "";
    if (value !== "") i++;
    found.push({ option, value, text: [`-${option}`, value].join(" ").trim(), ...properties(value) });
  }
  return found;
}

/** `head,key=value,flag` with `,,` for a comma, or JSON with the head under `driver`, `type`, `qom-type` or `backend`. */
function properties(value: string): Pick<Argument, "head" | "properties"> {
  const json = value.startsWith("{") ? jsonObject(value) : undefined;
  if (json !== undefined) {
    const map = new Map(Object.entries(json).map(([k, v]) => [k, v === true ? "on" : String(v)]));
    return { head: map.get("driver") ?? map.get("type") ?? map.get("qom-type") ?? "", properties: map };
  }
  const map = new Map<string, string>();
  for (const part of value.replaceAll(",,", "\0").split(",")) {
    const [key, ...rest] = part.replaceAll("\0", ",").split("=");
    map.set(key!, rest.length === 0 ? "on" : rest.join("="));
  }
  const first = value.split(",")[0]!;
  const named = map.get("driver") ?? map.get("type") ?? map.get("backend");
  return { head: first.includes("=") ? (named ?? "") : first, properties: map };
}

function jsonObject(text: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}
