/**
 * One guardian for one VM on a host, and nothing that two VMs both call their own. A second guardian finds
 * out before it has touched anything: it ends at once, and says who runs. What is locked is what two of them
 * would destroy for each other.
 */
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { HeldLocks, LockFolder, type Taken } from "../../os/lock-folder.ts";
import { whyUnsafe } from "../../os/safe-path.ts";
import type { GuardianConfig } from "../config/config.ts";
import { ownClash, type Sole, soles } from "./soles.ts";

/** Another guardian has what this one needs. */
export class NotTheOnlyGuardian extends Error {}

/** Resolves when this guardian is the only one. @throws NotTheOnlyGuardian, and nothing was touched */
export async function beTheOnlyGuardian(
  config: GuardianConfig,
  file: string,
  folders: readonly string[] = lockFolders(config),
): Promise<HeldLocks> {
  const by = JSON.stringify({ pid: process.pid, vm: config.vm.name, file: resolve(file) });
  const held: HeldLocks[] = [];
  const giveBack = async () => {
    for (const locks of held) await locks.giveBack();
  };
  const reasons: string[] = [];
  const taken = new Set<string>();
  const takeAll = async (): Promise<void> => {
    const all = soles(config);
    const clash = ownClash(all);
    if (clash !== undefined)
      throw new Error(
        `${file}: ${clash[1].what} leads to ${clash[0].what}. Nothing was touched. Give each a place of its own`,
      );
    const names = [...new Set(all.flatMap((one) => one.names))].filter((name) => !taken.has(name));
    for (const name of names) taken.add(name);
    for (const path of names.length === 0 ? [] : folders) {
      const answer = await take(path, names, by).catch((error: Error) => error);
      if (answer instanceof HeldLocks) held.push(answer);
      else if (answer instanceof Error) reasons.push(answer.message);
      else {
        throw new NotTheOnlyGuardian(
          `VM ${config.vm.name} is not started from ${file}: ${holders(answer, all)}. Nothing was touched. ` +
            "Leave it to the guardian that runs, or end that first; give two VMs names, UUIDs, directories, " +
            "disks, taps and addresses of their own",
        );
      }
    }
  };
  try {
    await takeAll();
    if (held.length > 0) {
      // A directory that is there has one more name.
      make(config.runDirectory);
      await takeAll();
      return new HeldLocks(giveBack);
    }
  } catch (error) {
    await giveBack();
    throw error;
  }
  throw new Error(
    `no directory can be had for locks, by which a guardian knows that it is the only one of its VM: ${reasons.join("; ")}. Let this user write to stateDirectory`,
  );
}

async function take(
  path: string,
  names: readonly string[],
  by: string,
): Promise<HeldLocks | readonly Taken[]> {
  // Before it is made: behind a link of somebody else's it would be made, and tidied, in a place of his
  // choice.
  const why = whyUnsafe(path);
  if (why !== undefined) throw new Error(why);
  return await LockFolder.open(path).take(names, by);
}

/** What is in the way is preflight's to tell. */
function make(path: string): void {
  if (whyUnsafe(path) !== undefined) return;
  try {
    mkdirSync(path, { recursive: true });
  } catch {}
}

function holders(taken: readonly Taken[], all: readonly Sole[]): string {
  const whats = new Map<string, Set<string>>();
  for (const { name, by } of taken) {
    const { what } = all.find(({ names }) => names.includes(name))!;
    whats.set(by, (whats.get(by) ?? new Set()).add(what));
  }
  return [...whats].map(([by, what]) => `${holder(by)} has ${[...what].join(", ")}`).join("; ");
}

/**
 * Where the locks of a host are: each of them that this user can have. Those below /run are one for all VMs,
 * but a login's end or a service manager may remove them while guardians run on; the one beside the state
 * stays, and the same guardian started again finds it.
 */
function lockFolders({ stateDirectory }: GuardianConfig): string[] {
  const user = process.getuid!();
  const { XDG_RUNTIME_DIR: runtime = `/run/user/${user}` } = process.env;
  return [
    user === 0 ? "/run/remus/locks" : join(runtime, "remus/locks"),
    join(stateDirectory, "remus-locks"),
  ];
}

function holder(by: string): string {
  try {
    const { file, pid, vm } = JSON.parse(by) as { file: string; pid: number; vm: string };
    return `the guardian of VM ${vm} that runs here as pid ${pid} (${file})`;
  } catch {
    return "another guardian on this host";
  }
}
