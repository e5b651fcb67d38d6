/**
 * What a user's extra QEMU arguments would mean for protection, read off the arguments alone. Part of
 * preflight.
 *
 * Everything that leaves a VM is held, refused, or named. So each option stands here with its rule, and one
 * that does not is refused: Remus cannot say where it leads. What the arguments add is looked for once more
 * in the running QEMU (live-network.ts).
 */
import { type Argument, parseArguments } from "./arguments.ts";
import { cardFinding, deviceFinding, globalFinding, objectFinding } from "./extra-devices.ts";
import { diskFinding, onlyReadNodes } from "./extra-disks.ts";
import { audioFinding, chardevFinding, endFinding, monitorFinding } from "./extra-ends.ts";
import { type Rule, refused, unheld } from "./extra-rules.ts";
import { areGuestProperties } from "./machine-options.ts";
import { error, type Finding } from "./traps.ts";

/** Findings on `vm.extraArgs`. */
export function extraArgsFindings(extraArgs: readonly string[]): Finding[] {
  const all = parseArguments(extraArgs);
  const onlyRead = onlyReadNodes(all);
  return all.flatMap((argument) => {
    const finding = onlyRead.has(argument) ? undefined : judge(argument);
    return finding === undefined ? [] : [finding];
  });
}

/** Whether QEMU was told to use KVM's dirty ring: in `-accel kvm,dirty-ring-size=N`. */
export function asksForDirtyRing(args: readonly string[]): boolean {
  return parseArguments(args).some(
    ({ option, properties }) => option === "accel" && Number(properties.get("dirty-ring-size") ?? 0) > 0,
  );
}

function judge(argument: Argument): Finding | undefined {
  const { option, text, unreadable } = argument;
  const rule = rules.get(option);
  if (rule !== undefined && unreadable === undefined) return rule(argument);
  if (rule !== undefined)
    return error("unreadable-argument", `vm.extraArgs: "${text}" ${unreadable}. Mend it, or leave it out.`);
  const hint = /[\s=]/.test(option) ? " Option and value are two items of the list." : "";
  return error(
    "unknown-argument",
    `vm.extraArgs: "${text}" is no option that Remus knows, so it cannot say what of it would leave the VM unheld.${hint} Leave it out.`,
  );
}

/** Change what the guest sees or how QEMU works, and open no way out. */
const harmless =
  "k msg rtc boot vga smbios acpitable fw_cfg usb no-acpi no-hpet no-fd-bootchk win2k-hack overcommit mem-prealloc bios L " +
  "option-rom only-migratable nodefaults no-user-config pidfile D d dfilter trace sandbox watchdog watchdog-action " +
  "no-reboot no-shutdown seed cdrom";

/** What Remus says of these options itself, and where the user says it to Remus. */
const reserved: Readonly<Record<string, string>> = {
  "accel enable-kvm no-kvm": 'Use the field "accelerator".',
  cpu: "Use vm.cpu.",
  smp: "Use vm.vcpus, and vm.topology for sockets, cores and threads.",
  "m mem-path": "Use vm.memoryMiB.",
  "machine M": "Use vm.machine; of -machine's own properties, only some that the guest sees may be here.",
  name: "Use vm.name.",
  "kernel initrd append dtb": "Use vm.boot.",
  pflash: "Use vm.uefi.code and vm.uefi.variables.",
  uuid: "To show the guest a UUID, use -smbios type=1,uuid=….",
  "display nographic curses sdl full-screen portrait rotate": "Use vm.vnc to see the screen.",
  "incoming loadvm snapshot S preconfig daemonize": "Leave it out.",
};

const disks = "drive blockdev hda hdb hdc hdd fda fdb sd mtdblock";

const rules: ReadonlyMap<string, Rule> = new Map<string, Rule>([
  ...each(harmless, () => undefined),
  ...Object.entries(reserved).flatMap(([options, todo]) =>
    each(options, refused("reserved-argument", "is set by Remus itself", todo)),
  ),
  ...each("machine", (argument) => {
    const { head, properties } = argument;
    return head === "" && areGuestProperties(properties)
      ? undefined
      : refused("reserved-argument", "is set by Remus itself", reserved["machine M"]!)(argument);
  }),
  ...each("action", actionFinding),
  ...each("netdev nic net", cardFinding),
  ...each("device", deviceFinding),
  ...each("object", objectFinding),
  ...each("global", globalFinding),
  ...each(disks, diskFinding),
  [
    "",
    refused(
      "unprotected-disk",
      "is a disk image to QEMU, and Remus would not copy it",
      "Put it into vm.disks.",
    ),
  ],
  ...each("chardev", chardevFinding),
  ...each("serial parallel debugcon", endFinding),
  ...each("monitor qmp qmp-pretty mon", monitorFinding),
  ...each("audiodev audio", audioFinding),
  ...each("vnc", ({ head, ...argument }) =>
    head === "none"
      ? undefined
      : unheld("shows the guest's screen and takes its keys")({ head, ...argument }),
  ),
  ...each("spice", unheld("shows the guest's screen, and passes on its sound and its clipboard")),
  ...each("gdb s", unheld("lets a debugger read the VM's memory and stop it")),
  ...each(
    "readconfig",
    refused(
      "arguments-file",
      "takes further arguments from a file, where Remus does not look",
      "Write them into vm.extraArgs one by one.",
    ),
  ),
  ...each("writeconfig", refused("arguments-file", "writes a file and starts no VM", "Leave it out.")),
  ...each(
    "set",
    refused(
      "arguments-file",
      "changes another argument afterwards",
      "Write the value into that argument itself.",
    ),
  ),
  ...each(
    "runas chroot",
    refused(
      "rights-argument",
      "changes QEMU's rights after its start, and the kernel then no longer ends it with its guardian: a VM could run twice",
      "Start the guardian as that user instead.",
    ),
  ),
  ...each("run-with", (argument) => {
    const { properties } = argument;
    if ([...properties.keys()].every((key) => key === "exit-with-parent")) return undefined;
    return rules.get("runas")!(argument);
  }),
  ...each(
    "virtfs fsdev",
    refused("shared-directory", "shares a directory of this host, which the backup lacks", "Remove it."),
  ),
  ...each(
    "tpmdev",
    refused(
      "tpm",
      "keeps the TPM's keys outside QEMU, in a chip or a process of this host that the backup does not have",
      "Remove it, and the TPM device with it.",
    ),
  ),
  ...each("usbdevice", (argument) =>
    /^(tablet|mouse|keyboard|wacom-tablet)$/.test(argument.value)
      ? undefined
      : refused("unmigratable", "is a USB device that leads out of the VM", "Remove it.")(argument),
  ),
  ...each(
    "numa",
    refused(
      "reserved-argument",
      "places guest memory, which Remus does itself: the guest has one node",
      "Leave it out.",
    ),
  ),
  ...each("compat", (argument) => {
    const inputs = [...argument.properties].filter(([key]) => key.endsWith("-input"));
    if (inputs.every(([, policy]) => policy === "accept")) return undefined;
    return refused(
      "reserved-argument",
      "has QEMU refuse orders that it calls unstable or old, or abort at them, and COLO is one",
      "Leave the input policies out.",
    )(argument);
  }),
  ...each(
    "icount",
    refused(
      "unknown-argument",
      "changes how the VM's time passes, with which Remus was never tried",
      "Leave it out.",
    ),
  ),
  ...each(
    "semihosting semihosting-config",
    refused(
      "unheld-output",
      "lets the guest write files of this host, which no failover takes back",
      "Remove it.",
    ),
  ),
  ...each(
    "h help version audio-help dump-vmstate",
    refused("reserved-argument", "ends QEMU before the VM runs", "Leave it out."),
  ),
]);

function each(options: string, rule: Rule): [string, Rule][] {
  return options.split(" ").map((option) => [option, rule]);
}

/**
 * What becomes of a guest that has ended is the guardian's affair: a QEMU that ends by itself looks like a
 * host that fails, and the backup would go on.
 */
function actionFinding(argument: Argument): Finding | undefined {
  const { properties } = argument;
  const ends =
    (properties.get("shutdown") ?? "pause") !== "pause" || properties.get("panic") === "exit-failure";
  if (!ends) return undefined;
  return refused(
    "reserved-argument",
    "ends QEMU with its guest, which looks like a failure of this host",
    "Leave it out: when the guest powers off or panics, its guardian ends the VM on both hosts.",
  )(argument);
}
