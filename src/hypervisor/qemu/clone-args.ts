/**
 * A VM's extra QEMU arguments, for a clone of it that must not reach the outside: what the guest sees stays,
 * what leads out of the VM on the host leads nowhere. An option that is not known here is not guessed at.
 */
import { type Argument, parseArguments } from "./arguments.ts";

/** Change what the guest sees, or nothing that matters outside. */
const guestVisible = new Set(
  (
    "device global rtc boot vga smbios fw_cfg acpitable usb k msg watchdog watchdog-action action no-reboot no-shutdown " +
    "no-acpi no-hpet icount realtime cdrom drive blockdev nodefaults no-user-config bios L option-rom machine numa " +
    "usbdevice win2k-hack no-fd-bootchk compat seed"
  ).split(" "),
);
/** Are the host's alone: left out. With a value each, but for the last. */
const hostOnly = new Set([
  ...["qmp", "qmp-pretty", "monitor", "mon", "pidfile", "D", "d", "dfilter", "trace"],
  ...["vnc", "spice", "gdb", "sandbox", "run-with"],
]);
const hostOnlyFlags = new Set(["s", "mem-prealloc"]);
/** The guest has a port there; it leads nowhere. */
const ports = new Set(["serial", "parallel", "debugcon"]);
const objects = /^(rng-random|rng-builtin|iothread|throttle-group|can-bus|secret|tls-creds-.*|authz-.*)$/;

/** Rewrites them. @throws Error, a sentence, with the first that cannot be made safe */
export function cloneArguments(extraArgs: readonly string[]): string[] {
  return parseArguments(extraArgs).flatMap((argument) => {
    const { head, option, properties, value } = argument;
    if (hostOnly.has(option) || hostOnlyFlags.has(option)) return [];
    // A clone that locks or touches all of its memory would take as much again as the standby beside it has.
    if (option === "overcommit") {
      const cpu = properties.get("cpu-pm");
      return cpu === undefined ? [] : ["-overcommit", `cpu-pm=${cpu}`];
    }
    if (ports.has(option)) return [`-${option}`, value.startsWith("chardev:") ? value : "null"];
    if (option === "audiodev") return ["-audiodev", `none,id=${properties.get("id") ?? ""}`];
    if (option === "chardev") return ["-chardev", `null,id=${properties.get("id") ?? ""}`];
    const noCard = (option === "net" || option === "nic") && head === "none";
    if (noCard || guestVisible.has(option) || (option === "object" && objects.test(head)))
      return words(argument);
    throw new Error(
      `vm.extraArgs: whether "${argument.text}" leads out of a test failover's clone is not known, so there is none. Run without it, or report it`,
    );
  });
}

function words({ option, value }: Argument): string[] {
  return value === "" ? [`-${option}`] : [`-${option}`, value];
}
