/**
 * Whether only this user, or root, can change what a path leads to. Memory of a VM, sockets and notes lie in files that are opened
 * by name: whoever can put another file in their place, or a link, reads the VM's memory or has root write where he likes.
 */
import { lstatSync, readFileSync, readlinkSync, type Stats } from "node:fs";
import { dirname, resolve } from "node:path";

const WRITABLE_BY_GROUP = 0o020;
const WRITABLE_BY_OTHERS = 0o002;
/** In such a directory nobody may rename or remove what is not his own. */
const STICKY = 0o1000;
const MOST_LINKS = 40;

export interface SafePathHost {
  readonly userId: number;
  readonly groupId: number;
  /** Owner of files whose owner this user namespace does not know, root's of the machine among them. */
  readonly unknownUserId: number | undefined;
}

/**
 * @param path absolute; it need not exist yet
 * @returns undefined if it is safe, or a sentence that says which directory is not, whose it is and what to do
 */
export function whyUnsafe(path: string, host: SafePathHost = thisHost()): string | undefined {
  let rest = split(resolve(path));
  let at = "/";
  let links = 0;
  /** In a directory in which everybody may make files, those of an unknown owner are anybody's. */
  let parentIsOpen = false;
  for (;;) {
    const found = lstatSync(at, { throwIfNoEntry: false });
    // What is not there yet is made by us, in a directory that is safe.
    if (found === undefined) return undefined;
    const unknown = found.uid === host.unknownUserId && !parentIsOpen;
    if (found.uid !== 0 && found.uid !== host.userId && !unknown)
      return unsafe(at, `belongs to user ${found.uid}`);
    if (found.isSymbolicLink()) {
      if (++links > MOST_LINKS) return unsafe(at, "is a link that leads back to itself");
      rest = [...split(resolve(dirname(at), readlinkSync(at))), ...rest];
      at = "/";
      parentIsOpen = false;
      continue;
    }
    const others = writers(found, host);
    if (others !== undefined && (found.mode & STICKY) === 0) return unsafe(at, `can be changed by ${others}`);
    parentIsOpen = others !== undefined;
    const next = rest.shift();
    if (next === undefined) return undefined;
    at = at === "/" ? `/${next}` : `${at}/${next}`;
  }
}

function writers({ gid, mode }: Stats, { groupId }: SafePathHost): string | undefined {
  if ((mode & WRITABLE_BY_OTHERS) !== 0) return "every user";
  // A user's own group, and root's, have nobody else in them.
  if ((mode & WRITABLE_BY_GROUP) !== 0 && gid !== 0 && gid !== groupId) return `the users of group ${gid}`;
  return undefined;
}

function unsafe(path: string, how: string): string {
  return `${path} ${how}, who could put files of their own in the place of Remus's. Remove it, or correct its owner and mode (0700), or name another directory`;
}

function split(path: string): string[] {
  return path.split("/").filter((name) => name !== "");
}

function thisHost(): SafePathHost {
  return {
    userId: process.geteuid!(),
    groupId: process.getegid!(),
    unknownUserId: inUserNamespace()
      ? Number(readFileSync("/proc/sys/kernel/overflowuid", "utf8"))
      : undefined,
  };
}

/** In one that has not every user, root of the machine may be among those that are missing. */
function inUserNamespace(): boolean {
  const [line = ""] = readFileSync("/proc/self/uid_map", "utf8").trim().split("\n");
  const [inside, outside, count] = line.trim().split(/\s+/).map(Number);
  return !(inside === 0 && outside === 0 && count === 2 ** 32 - 1);
}
