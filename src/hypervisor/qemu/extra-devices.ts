/**
 * Devices, objects and properties that extra arguments bring: known to be whole in a checkpoint, or refused.
 */
import { type Argument, isOn } from "./arguments.ts";
import { refused, unknown } from "./extra-rules.ts";
import type { Finding } from "./traps.ts";

const vhost = refused("vhost", "moves frames past QEMU, where Remus cannot hold them", "Leave vhost out.");
const queues = refused(
  "multiqueue",
  "asks for several queues; Remus holds the output of one",
  "Use one queue.",
);
const card = refused(
  "extra-nic",
  "adds a network card whose output Remus would not hold",
  "Cards belong into vm.nics, where each is a virtio-net card on a tap; Remus protects no other model and no other backend.",
);

/** What every argument of cards may ask for, and Remus cannot hold. */
function asksTooMuch(argument: Argument): Finding | undefined {
  const { head, properties } = argument;
  if (/^vhost-/.test(head) || isOn(properties.get("vhost")) || properties.has("vhostfd"))
    return vhost(argument);
  return Number(properties.get("queues") ?? 1) > 1 || isOn(properties.get("mq"))
    ? queues(argument)
    : undefined;
}

/** `-netdev`, `-nic`, `-net`. */
export function cardFinding(argument: Argument): Finding | undefined {
  if (argument.option !== "netdev" && argument.head === "none") return undefined;
  return asksTooMuch(argument) ?? card(argument);
}

const cardDrivers =
  /^(virtio-net|e1000|rtl8139|ne2k|pcnet|vmxnet|tulip|i8255|i8254|i8256|i8280|igb|usb-net|rocker|sungem|eepro)/;

/**
 * By driver; the first that fits speaks. What QEMU hands on, and whose ends are `-chardev`, `-drive` and so
 * on, judged on their own.
 */
const deviceRules: readonly [RegExp, (argument: Argument) => Finding | undefined][] = [
  [cardDrivers, card],
  [
    /^vfio-/,
    refused("vfio", "gives the VM a real device, whose state cannot be copied", "Use a virtual device."),
  ],
  [/^ivshmem/, refused("ivshmem", "shares memory that is not part of any checkpoint", "Remove it.")],
  [
    /^virtio-9p/,
    refused("shared-directory", "shares a directory of this host, which the backup lacks", "Remove it."),
  ],
  [/^vhost-/, refused("vhost", "keeps device state outside QEMU, where no checkpoint sees it", "Remove it.")],
  [
    /^(usb-host|usb-mtp|nvme|virtio-(gpu|vga)-(gl|rutabaga)|pvrdma|sgx-|scsi-generic|scsi-block|edu$|virtio-crypto|amd-iommu|virtio-input-host|ccid-card-emulated|u2f-passthru|usb-braille)/,
    refused("unmigratable", "is a device whose state QEMU cannot hand on", "Remove it."),
  ],
  [
    /^(usb-redir|ccid-card-passthru|kvaser_pci|mioe3680_pci|pcm3680_pci)/,
    refused(
      "unheld-output",
      "lets the guest speak with a device elsewhere, and nothing takes back what that has done",
      "Remove it.",
    ),
  ],
  [
    /^tpm-/,
    refused(
      "tpm",
      "needs a TPM outside QEMU, in a chip or a process of this host that the backup does not have",
      "Remove it.",
    ),
  ],
  [
    /^(pc-dimm|nvdimm|virtio-(mem|pmem))/,
    refused(
      "unmigratable",
      "adds memory beside the VM's RAM, which Remus does not copy",
      "Use vm.memoryMiB.",
    ),
  ],
  [
    /^isa-debug-exit/,
    refused("unmigratable", "lets the guest end QEMU, which looks like a failure of the host", "Remove it."),
  ],
  [
    /^(virtio-(rng|balloon|serial|keyboard|mouse|tablet|input|gpu|vga|scsi|blk|iommu)|virtserialport|virtconsole)/,
    () => undefined,
  ],
  [
    /^(VGA|bochs-display|cirrus-vga|isa-cirrus-vga|isa-vga|qxl|qxl-vga|secondary-vga|vmware-svga|ramfb)$/,
    () => undefined,
  ],
  [/^(i6300esb|ib700|pvpanic|pvpanic-pci|vmcoreinfo|vmgenid|hyperv-testdev)$/, () => undefined],
  [
    /^(usb-(tablet|mouse|kbd|wacom-tablet|hub|storage|bot|uas|audio|serial|ccid|ehci)|qemu-xhci|nec-usb-xhci|pci-ohci|(ich9|ich10|piix3|piix4|vt82c686b)-usb-)/,
    () => undefined,
  ],
  [/^(intel-hda|ich9-intel-hda|hda-|AC97|ES1370|sb16|adlib|cs4231a|gus)/, () => undefined],
  [
    /^(pci-bridge|pcie-root-port|ioh3420|pcie-pci-bridge|x3130-upstream|xio3130-downstream|pxb|pxb-pcie|i82801b11-bridge|pci-bridge-seat)$/,
    () => undefined,
  ],
  [
    /^(lsi53c|megasas|mptsas1068|am53c974|dc390|pvscsi|ahci|ich9-ahci|piix3-ide|piix4-ide|isa-ide)/,
    () => undefined,
  ],
  [/^(ide-(cd|hd|drive)|scsi-(cd|hd|disk)|floppy|isa-fdc)$/, () => undefined],
  [/^(isa-serial|pci-serial|isa-parallel|isa-debugcon|intel-iommu|i8042)/, () => undefined],
];

/** `-device`. */
export function deviceFinding(argument: Argument): Finding | undefined {
  const { head, properties } = argument;
  const rule = deviceRules.find(([driver]) => driver.test(head));
  const asked = /^vhost-/.test(head) ? undefined : asksTooMuch(argument);
  if (asked !== undefined) return asked;
  if (properties.has("netdev")) return card(argument);
  return (rule?.[1] ?? unknown("device"))(argument);
}

/** `-object`. */
export function objectFinding(argument: Argument): Finding | undefined {
  const { head } = argument;
  if (/^(rng-|iothread|throttle-group|secret|tls-c|authz-|can-bus|thread-context|main-loop)/.test(head))
    return undefined;
  if (/^(filter-|colo-compare)/.test(head))
    return refused(
      "extra-nic",
      "reaches into the way of the guest's frames, where Remus holds them",
      "Remove it.",
    )(argument);
  if (/^memory-backend-/.test(head))
    return refused(
      "reserved-argument",
      "places guest memory, which Remus does itself",
      "Use vm.memoryMiB.",
    )(argument);
  if (/^can-host-/.test(head))
    return refused("unheld-output", "lets the guest speak on a bus of this host", "Remove it.")(argument);
  if (/^cryptodev-(vhost|backend)/.test(head))
    return refused("unmigratable", "serves a device whose state QEMU cannot hand on", "Remove it.")(argument);
  return unknown("object")(argument);
}

/** Which device leads where is said by the device itself, never from afar. */
const leads = /^(netdev|hubport|chardev|drive|memdev|vhost.*|mq|host|hostdev|rng|cryptodev|mac|queues)$/;

/**
 * `-global driver.property=value`, or with keys. It changes devices that are judged on their own; not what
 * they lead to.
 */
export function globalFinding(argument: Argument): Finding | undefined {
  const { properties, value } = argument;
  const short = /^([^.=]+)\.([^=]+)=/.exec(value);
  const driver = short?.[1] ?? properties.get("driver") ?? "";
  const property = short?.[2] ?? properties.get("property") ?? "";
  if (driver === "migration")
    return refused(
      "reserved-argument",
      "changes the stream in which Remus copies the VM",
      "Leave it out.",
    )(argument);
  if (!leads.test(property)) return undefined;
  return refused(
    "reserved-argument",
    "changes where devices lead, or the queues of Remus's own cards",
    "Say it at a -device, or leave it out.",
  )(argument);
}
