/**
 * One guardian for one VM on a host, and nothing that two VMs both call their own. A second guardian finds out before it has touched anything: it ends at once,
 * and says who runs. What is locked is what two of them would destroy for each other.
 */
import { createHash } from "node:crypto";
import { readlinkSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { at } from "../link/link-error.ts";
import { HeldLocks, LockFolder, type Taken } from "../os/lock-folder.ts";
import { whyUnsafe } from "../os/safe-path.ts";
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
  const all = soles(config);
  const names = all.map(({ name }) => name);
  const by = JSON.stringify({ pid: process.pid, vm: config.vm.name, file: resolve(file) });
  const held: HeldLocks[] = [];
  const giveBack = async () => {
    for (const locks of held) await locks.giveBack();
  };
  const reasons: string[] = [];
  for (const path of folders) {
    const answer = await take(path, names, by).catch((error: Error) => error);
    if (answer instanceof HeldLocks) held.push(answer);
    else if (answer instanceof Error) reasons.push(answer.message);
    else {
      await giveBack();
      throw new NotTheOnlyGuardian(
        `VM ${config.vm.name} is not started from ${file}: ${holders(answer, all)}. Nothing was touched. ` +
          "Leave it to the guardian that runs, or end that first; give two VMs names, UUIDs, directories, disks, taps and addresses of their own",
      );
    }
  }
  if (held.length > 0) return new HeldLocks(giveBack);
  throw new Error(
    `no directory can be had for locks, by which a guardian knows that it is the only one of its VM: ${reasons.join("; ")}. Let this user write to stateDirectory`,
  );
}

async function take(
  path: string,
  names: readonly string[],
  by: string,
): Promise<HeldLocks | readonly Taken[]> {
  // Before it is made: behind a link of somebody else's it would be made, and tidied, in a place of his choice.
  const why = whyUnsafe(path);
  if (why !== undefined) throw new Error(why);
  return await LockFolder.open(path).take(names, by);
}

function holders(taken: readonly Taken[], all: readonly Sole[]): string {
  const whats = new Map<string, string[]>();
  for (const { name, by } of taken) {
    const { what } = all.find((sole) => sole.name === name)!;
    whats.set(by, [...(whats.get(by) ?? []), what]);
  }
  return [...whats].map(([by, what]) => `${holder(by)} has ${what.join(", ")}`).join("; ");
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

/**
 * Where the locks of a host are: each of them that this user can have. Those below /run are one for all VMs, but a login's end or a service manager may remove them
 * while guardians run on; the one beside the state stays, and the same guardian started again finds it.
 */
function lockFolders({ stateDirectory }: GuardianConfig): string[] {
  const user = process.getuid!();
  const { XDG_RUNTIME_DIR: runtime = `/run/user/${user}` } = process.env;
  return [
    user === 0 ? "/run/remus/locks" : join(runtime, "remus/locks"),
    join(stateDirectory, "remus-locks"),
  ];
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
