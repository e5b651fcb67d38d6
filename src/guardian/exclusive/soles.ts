/**
 * What a guardian must have for itself on its host. Each thing has the names of everything that it has in
 * common with another one: a path however it is written, the file behind it, a device and its partitions.
 */
import { createHash } from "node:crypto";
import { readlinkSync, realpathSync, type Stats, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { at } from "../../link/link-error.ts";
import { deviceNumbers, devicesOn, loopFile } from "../../os/block-device.ts";
import { networkLink } from "../../os/network-link.ts";
import type { GuardianConfig } from "../config/config.ts";
import { extraSockets } from "./extra-sockets.ts";

/** @property what stands for it in sentences */
export interface Sole {
  readonly names: readonly string[];
  readonly what: string;
}

/** The number of the bridge whose port a device is. */
type MasterOf = (device: string) => { readonly master: number | undefined } | undefined;

/** For either role: a guardian may come to have the other one. */
export function soles(config: GuardianConfig, linkOf: MasterOf = networkLink): Sole[] {
  const { imageDirectory, replication, runDirectory, stateDirectory, vm } = config;
  // A host is what has a network of its own: two of them may be on one machine, to try things out.
  const host = readlinkSync("/proc/self/ns/net").replace(/\D/g, "");
  const { name, nics, uuid } = vm;
  return [
    { names: [`uuid.${host}.${uuid}`], what: `this VM (UUID ${uuid})` },
    { names: [`name.${host}.${name}`], what: `a VM of this name (${name})` },
    { names: directory("run", runDirectory), what: `runDirectory ${runDirectory}` },
    {
      names: directory("state", stateDirectory, name),
      what: `${name} in stateDirectory ${stateDirectory}`,
    },
    {
      names: directory("ram", imageDirectory, name),
      what: `${name} in imageDirectory ${imageDirectory}`,
    },
    ...images(config),
    ...ends(config, host),
    ...nics.map(({ tap }) => ({ names: [`tap.${host}.${tap}`], what: `tap ${tap}` })),
    ...nics.flatMap(({ mac, tap }) => addressOf(mac, tap, host, linkOf)),
    ...(replication.listen ?? []).map((address) => ({
      names: [`listen.${host}.${at(address)}`],
      what: `replication.listen ${at(address)}`,
    })),
  ];
}

/**
 * Two fields of one file that lead to the same thing; undefined if there are none. One image under two names
 * is preflight's to tell.
 */
export function ownClash(all: readonly Sole[]): readonly [Sole, Sole] | undefined {
  for (const [index, one] of all.entries())
    for (const other of all.slice(index + 1))
      if (!isTwin(one, other) && one.names.some((name) => other.names.includes(name))) return [one, other];
  return undefined;
}

function isTwin(one: Sole, other: Sole): boolean {
  return one.names[0] === other.names[0] && one.names[0]?.startsWith("disk.") === true;
}

function images({ vm }: GuardianConfig): Sole[] {
  return vm.disks.flatMap(({ image, storage }) => {
    const names = storage === "replicated" ? contentsOf(image) : [];
    return names.length === 0 ? [] : [{ names, what: `disk image ${image}` }];
  });
}

/**
 * Where output of the VM goes on this host. QEMU removes what is in the place of its sockets, and appends to
 * files.
 */
function ends({ lab, runDirectory, vm }: GuardianConfig, host: string): Sole[] {
  const { agent, serial, vnc } = vm;
  const places: [string, string | undefined][] = [
    ["the control socket", join(runDirectory, "control.sock")],
    ["a monitor of Remus's", join(runDirectory, "qmp.sock")],
    ["a monitor of Remus's", join(runDirectory, "qmp-watchdog.sock")],
    ["vm.serial", serial && ("file" in serial ? serial.file : serial.socket)],
    ["vm.agent", agent],
    ["vm.vnc", vnc],
    ["lab.serialLog", lab.serialLog],
    ["lab.ramFile", lab.ramFile],
  ];
  // Extra arguments are the same on both hosts, which may be tried on one machine.
  const extra = extraSockets(vm.extraArgs).map(({ option, path }) => ({
    names: [`end.${host}.${place(path)}`],
    what: `vm.extraArgs ${option} ${path}`,
  }));
  const named = places.flatMap(([field, path]) => {
    // A device may be everybody's, as /dev/null is.
    if (path === undefined || lookAt(path)?.isCharacterDevice() === true) return [];
    const what =
      field.startsWith("a monitor") || field.startsWith("the ") ? `${field} (${path})` : `${field} ${path}`;
    const names = [`end.${place(path)}`, `end.${host}.${place(path)}`, ...contentsOf(path)];
    return [{ names, what }];
  });
  return [...named, ...extra];
}

/** Two VMs of one address in one bridge take each other's frames. */
function addressOf(mac: string, tap: string, host: string, linkOf: MasterOf): Sole[] {
  const master = linkOf(tap)?.master;
  if (master === undefined) return [];
  return [
    { names: [`mac.${host}.${master}.${mac.toLowerCase()}`], what: `MAC ${mac} in the bridge of tap ${tap}` },
  ];
}

/** By its path, and by the directory itself, which a bind mount shows under another one. */
function directory(kind: string, path: string, name?: string): string[] {
  const inside = name === undefined ? "" : `.${name}`;
  const facts = lookAt(path);
  const own = facts === undefined ? [] : [`${kind}.${facts.dev}-${facts.ino}${inside}`];
  return [`${kind}.${place(name === undefined ? path : join(path, name))}`, ...own];
}

/** What is written when the file or device is; nothing if it cannot be looked at, which preflight tells. */
function contentsOf(path: string): string[] {
  const facts = lookAt(path);
  if (facts?.isFile() === true) return [file(facts)];
  if (facts?.isBlockDevice() !== true) return [];
  const numbers = deviceNumbers(facts.rdev);
  const behind = loopFile(numbers);
  const backing = behind === undefined ? undefined : lookAt(behind);
  return [
    ...devicesOn(numbers).map((device) => `disk.device-${device}`),
    ...(backing === undefined ? [] : [file(backing)]),
  ];
}

function file({ dev, ino }: Stats): string {
  return `disk.${dev}-${ino}`;
}

/** One name for one place, by whichever path it is called and whether it is there yet or not. */
function place(path: string): string {
  return createHash("sha256").update(real(path)).digest("hex").slice(0, 24);
}

function real(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    const parent = dirname(path);
    return parent === path ? path : join(real(parent), basename(path));
  }
}

function lookAt(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}
