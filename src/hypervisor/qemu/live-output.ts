/**
 * By which ways a running QEMU lets output out, whatever its arguments said: part of the live preflight. What
 * came by a file of arguments, or later over another monitor, is here too.
 */
import type { Qmp } from "./qmp.ts";
import { error, type Finding, warning } from "./traps.ts";

/**
 * Every card and every backend must be one of Remus's own, which its filters hold: `nic0` on `net0` and so
 * on. `info network` has one line per queue: `\ net0: index=1,type=tap,…`. A second queue shows as an index
 * above 0.
 * @param cards how many of those there are
 */
export async function networkFindings(qmp: Qmp, cards: number): Promise<Finding[]> {
  const text = await qmp.execute<string>("human-monitor-command", { "command-line": "info network" });
  const queues = new Set<string>();
  const strangers = new Map<string, Finding>();
  for (const line of text.split("\n")) {
    const match = /([^\s:\\]+): index=(\d+),type=([\w-]+)/.exec(line);
    if (match === null) continue;
    const [, name, index, type] = match as unknown as [string, string, string, string];
    if (Number(index) > 0) queues.add(name);
    if (type.startsWith("vhost-"))
      strangers.set(
        name,
        error("vhost", `Network ${name} is ${type}, whose frames Remus does not see. Use a tap.`),
      );
    else if (!isOurs(name, type, cards)) strangers.set(name, stranger(name, type, line));
  }
  const several = [...queues].map((name) =>
    error(
      "multiqueue",
      `Network ${name} has several queues; Remus holds the output of one. Start it with one.`,
    ),
  );
  return [...several, ...strangers.values(), ...filterFindings(text)];
}

/** A filter of another's hands frames on, or writes them down, before their checkpoint is acknowledged. */
function filterFindings(networks: string): Finding[] {
  return [...networks.matchAll(/^\s*- (\S+): type=([\w-]+)/gm)].flatMap(([, name, type]) =>
    name!.startsWith("remus-")
      ? []
      : [
          error(
            "extra-filter",
            `Network filter ${name} (${type}) is none of Remus's: it sees what the VM sends before that may be seen. Take it out (object-del ${name}).`,
          ),
        ],
  );
}

function isOurs(name: string, type: string, cards: number): boolean {
  const [, kind, number] = /^(nic|net)(\d+)$/.exec(name) ?? [];
  return type === (kind === "nic" ? "nic" : "tap") && Number(number) < cards;
}

function stranger(name: string, type: string, line: string): Finding {
  const model = /model=([^,]+)/.exec(line)?.[1];
  const what =
    type === "nic"
      ? `Network card ${name}${model === undefined ? "" : ` (${model})`}`
      : `Network backend ${name} (${type})`;
  const todo =
    type === "nic" ? `take it out (device_del ${name})` : `take it out, after its card (netdev_del ${name})`;
  return error(
    "extra-nic",
    `${what} is none of vm.nics, and Remus would not hold what the VM sends there. Put it into vm.nics and start the VM anew, or ${todo}.`,
  );
}

/**
 * Ports and pipes that lead out of QEMU. The monitors and the first serial port are Remus's; so is what it
 * adds itself.
 */
export async function endFindings(qmp: Qmp): Promise<Finding[]> {
  const ends = await qmp.execute<{ label: string; filename: string }[]>("query-chardev");
  return ends.flatMap(({ filename, label }) =>
    /^(serial0|agent0|compat_monitor[01]|remus-.*)$/.test(label) || /^(null|ringbuf|memory|vc)/.test(filename)
      ? []
      : [
          warning(
            "unheld-output",
            `QEMU's character device ${label} leads to ${filename}, past the network, and Remus holds back only network output. ` +
              "Whoever is at the other end may see what a failover takes back.",
          ),
        ],
  );
}
