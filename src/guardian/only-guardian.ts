/**
 * One guardian for one VM on a host, and nothing that two VMs both call their own. A second guardian finds out before it has touched anything: it ends at once,
 * and says who runs. What is locked is what two of them would destroy for each other.
 */
import { createHash } from "node:crypto";
import { readlinkSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { at } from "../link/link-error.ts";
import { type HeldLocks, LockFolder } from "../os/lock-folder.ts";
import type { GuardianConfig } from "./config.ts";

/** Another guardian has what this one needs. */
export class NotTheOnlyGuardian extends Error {}

/** What is locked: the lock's name, and what it stands for in sentences. */
export interface Sole {
  readonly name: string;
  readonly what: string;
}

/** Resolves when this guardian is the only one. @throws NotTheOnlyGuardian, and nothing was touched */
export async function beTheOnlyGuardian(
  config: GuardianConfig,
  file: string,
  folders: readonly string[] = lockFolders(config),
): Promise<HeldLocks> {
  const folder = openFirst(folders);
  const all = soles(config);
  const names = all.map(({ name }) => name);
  const by = JSON.stringify({ pid: process.pid, vm: config.vm.name, file: resolve(file) });
  const answer = await folder.take(names, by);
  if ("giveBack" in answer) return answer;
  const whats = new Map<string, string[]>();
  for (const { name, by } of answer) {
    const { what } = all.find((sole) => sole.name === name)!;
    whats.set(by, [...(whats.get(by) ?? []), what]);
  }
  const reasons = [...whats].map(([by, what]) => `${holder(by)} has ${what.join(", ")}`);
  throw new NotTheOnlyGuardian(
    `VM ${config.vm.name} is not started from ${file}: ${reasons.join("; ")}. Nothing was touched. ` +
      "Leave it to the guardian that runs, or end that first; give two VMs names, UUIDs, directories, disks, taps and addresses of their own",
  );
}

/** Everything that a guardian must have for itself, in either role: it may come to have the other one. */
export function soles(config: GuardianConfig): Sole[] {
  const { imageDirectory, replication, runDirectory, stateDirectory, vm } = config;
  // A host is what has a network of its own: two of them may be on one machine, to try things out.
  const host = readlinkSync("/proc/self/ns/net").replace(/\D/g, "");
  const { name, nics, uuid } = vm;
  const images = vm.disks.flatMap(({ image, storage }) => (storage === "replicated" ? [image] : []));
  const all: Sole[] = [
    { name: `uuid.${host}.${uuid}`, what: `this VM (UUID ${uuid})` },
    { name: `name.${host}.${name}`, what: `a VM of this name (${name})` },
    { name: `run.${place(runDirectory)}`, what: `runDirectory ${runDirectory}` },
    {
      name: `state.${place(join(stateDirectory, name))}`,
      what: `${name} in stateDirectory ${stateDirectory}`,
    },
    { name: `ram.${place(join(imageDirectory, name))}`, what: `${name} in imageDirectory ${imageDirectory}` },
    ...images.flatMap((image) => {
      const which = inode(image);
      return which === undefined ? [] : [{ name: `disk.${which}`, what: `disk image ${image}` }];
    }),
    ...nics.map(({ tap }) => ({ name: `tap.${host}.${tap}`, what: `tap ${tap}` })),
    ...(replication.listen ?? []).map((address) => ({
      name: `listen.${host}.${at(address)}`,
      what: `replication.listen ${at(address)}`,
    })),
  ];
  // Two names of one image are preflight's to tell.
  return all.filter((one, index) => all.findIndex((other) => other.name === one.name) === index);
}

/** Where the locks of a host are; the first that this user can have. */
function lockFolders({ stateDirectory }: GuardianConfig): string[] {
  const user = process.getuid!();
  const runtime = process.env.XDG_RUNTIME_DIR ?? `/run/user/${user}`;
  return [
    ...(user === 0 ? ["/run/remus/locks"] : [join(runtime, "remus/locks")]),
    join(stateDirectory, "locks"),
  ];
}

function openFirst(folders: readonly string[]): LockFolder {
  const reasons: string[] = [];
  for (const path of folders)
    try {
      return LockFolder.open(path);
    } catch (error) {
      reasons.push((error as Error).message);
    }
  throw new Error(
    `no directory can be had for locks, by which a guardian knows that it is the only one of its VM: ${reasons.join("; ")}. Let this user write to stateDirectory`,
  );
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

/** Undefined if it cannot be looked at, which preflight tells. */
function inode(path: string): string | undefined {
  try {
    const { dev, ino, rdev } = statSync(path);
    return rdev === 0 ? `${dev}-${ino}` : `device-${rdev}`;
  } catch {
    return undefined;
  }
}

function holder(by: string): string {
  try {
    const { file, pid, vm } = JSON.parse(by) as { file: string; pid: number; vm: string };
    return `the guardian of VM ${vm} that runs here as pid ${pid} (${file})`;
  } catch {
    return "another guardian on this host";
  }
}
