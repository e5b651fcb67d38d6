/** Where extra arguments let the guest's ports, sound and QEMU's monitors lead. */
import type { Argument } from "./arguments.ts";
import { refused, unheld, unknown } from "./extra-rules.ts";
import type { Finding } from "./traps.ts";

/** Ends that nobody outside sees, or that only carry input. `vc` is seen over VNC, which is named itself. */
const silent = /^(null|none|ringbuf|memory|vc|msmouse|wctablet|testdev)$/;
const speaking =
  /^(file|pipe|pty|unix|socket|tcp|telnet|tn3270|websocket|udp|con|serial|tty|parallel|parport|hub|dbus)$/;
const spice = /^(spicevmc|spiceport)$/;

const speaks = unheld("lets the guest speak past the network");
const stdio = refused(
  "stdio",
  "takes the guardian's own standard input and output, where its log is",
  "Use a unix socket or a file.",
);
const braille = refused("unmigratable", "is a device of this host, which the backup lacks", "Remove it.");

/** `-chardev backend,id=…`. */
export function chardevFinding(argument: Argument): Finding | undefined {
  const { head, properties } = argument;
  if (head === "qemu-vdagent")
    return refused(
      "unmigratable",
      "passes the clipboard on, and its state cannot be copied",
      "Remove it.",
    )(argument);
  if (silent.test(head) && !properties.has("logfile")) return undefined;
  if (silent.test(head) || speaking.test(head) || spice.test(head)) return speaks(argument);
  return otherEnd(head, argument);
}

/** `-serial`, `-parallel`, `-debugcon`: an end in its short form, such as `tcp:HOST:PORT` or `/dev/ttyS0`. */
export function endFinding(argument: Argument): Finding | undefined {
  const kind = kindOf(argument.value);
  if (kind === "chardev" || silent.test(kind)) return undefined;
  if (speaking.test(kind)) return speaks(argument);
  if (kind === "mon") return monitorFinding(argument);
  return otherEnd(kind, argument);
}

/** A further monitor: `-monitor`, `-qmp`, `-mon`. */
export function monitorFinding(argument: Argument): Finding | undefined {
  const end = argument.value.replace(/^mon:/, "");
  const kind = kindOf(end);
  if (kind === "null" || kind === "none" || kind === "vc") return undefined;
  if (argument.option === "mon" || kind === "chardev" || speaking.test(kind))
    return unheld("lets others look into the VM and change it")(argument);
  return otherEnd(kind, argument);
}

export function audioFinding(argument: Argument): Finding | undefined {
  const { head } = argument;
  if (head === "none") return undefined;
  if (/^(alsa|coreaudio|dbus|jack|oss|pa|pipewire|sdl|sndio|spice|wav)$/.test(head))
    return unheld("lets the guest's sound out")(argument);
  return unknown("sound backend")(argument);
}

function otherEnd(kind: string, argument: Argument): Finding {
  if (kind === "stdio") return stdio(argument);
  if (kind === "braille") return braille(argument);
  return unknown("way out")(argument);
}

/** `tcp` of `tcp:HOST:PORT,server=on`; a device file is a port of the host. */
function kindOf(end: string): string {
  if (end.startsWith("/dev/")) return "tty";
  return /^[a-z0-9]*/.exec(end)![0];
}
