/**
 * Whether only this user, or root, can change what a path leads to. Memory of a VM, sockets and notes lie in
 * files that are opened by name: whoever can put another file in their place, or a link, reads the VM's
 * memory or has root write where he likes.
 */
import { lstatSync, readFileSync, readlinkSync, type Stats } from "node:fs";
import { dirname, resolve } from "node:path";

const WRITABLE_BY_GROUP = 0o020;
const WRITABLE_BY_OTHERS = 0o002;
/** In such a directory nobody may rename or remove what is not his own. */
const STICKY = 0o1000;
const MOST_LINKS = 40;

export interface SafePathHost {
  /** This user, and one who has become root by sudo: he could have run anything as root. */
  readonly userIds: readonly number[];
  readonly groupIds: readonly number[];
  /** Whether nobody but these users and root is in a group. */
  readonly isEmptyGroup: (groupId: number) => boolean;
  /** Owner of files whose owner this user namespace does not know, root's of the machine among them. */
  readonly unknownUserId: number | undefined;
}

/**
 * @param path absolute; it need not exist yet
 * @returns undefined if it is safe, or a sentence that says which directory is not, whose it is and what to
 * do
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
    if (found.uid !== 0 && !host.userIds.includes(found.uid) && !unknown)
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

function writers({ gid, mode }: Stats, { groupIds, isEmptyGroup }: SafePathHost): string | undefined {
  if ((mode & WRITABLE_BY_OTHERS) !== 0) return "every user";
  if ((mode & WRITABLE_BY_GROUP) === 0) return undefined;
  // A user's own group, and root's, have nobody else in them.
  if (gid === 0 || groupIds.includes(gid) || isEmptyGroup(gid)) return undefined;
  return `the users of group ${gid}`;
}

function unsafe(path: string, how: string): string {
  return `${path} ${how}, who could put files of their own in the place of Remus's. Remove it, or correct its owner and mode (0700), or name another directory`;
}

function split(path: string): string[] {
  return path.split("/").filter((name) => name !== "");
}

function thisHost(): SafePathHost {
  const userId = process.geteuid!();
  const isInside = inUserNamespace();
  const bySudo = (name: string) => (userId === 0 && !isInside ? numbers(process.env[name]) : []);
  const userIds = [userId, ...bySudo("SUDO_UID")];
  return {
    userIds,
    groupIds: [process.getegid!(), ...bySudo("SUDO_GID")],
    // In a user namespace one number stands for all groups that it does not know.
    isEmptyGroup: (groupId) => !isInside && isEmptyGroup(groupId, userIds),
    unknownUserId: isInside ? Number(readFileSync("/proc/sys/kernel/overflowuid", "utf8")) : undefined,
  };
}

function numbers(text: string | undefined): number[] {
  return text !== undefined && /^\d+$/.test(text) ? [Number(text)] : [];
}

/**
 * As Debian's group `staff`, to which /var/local belongs. One that is not in this host's own files may have
 * anybody in it.
 */
function isEmptyGroup(groupId: number, userIds: readonly number[]): boolean {
  const group = records("/etc/group").find(([, , id]) => Number(id) === groupId);
  if (group === undefined) return false;
  const trusted = new Set([0, ...userIds]);
  const others = records("/etc/passwd").filter(([, , id]) => !trusted.has(Number(id)));
  const trustedNames = new Set(
    records("/etc/passwd").flatMap(([name, , id]) => (trusted.has(Number(id)) ? [name!] : [])),
  );
  const members = (group[3] ?? "").split(",").filter((name) => name !== "" && !trustedNames.has(name));
  return members.length === 0 && others.every(([, , , id]) => Number(id) !== groupId);
}

function records(file: string): string[][] {
  try {
    return readFileSync(file, "utf8")
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => line.split(":"));
  } catch {
    return [];
  }
}

/** In one that has not every user, root of the machine may be among those that are missing. */
function inUserNamespace(): boolean {
  const [line = ""] = readFileSync("/proc/self/uid_map", "utf8").trim().split("\n");
  const [inside, outside, count] = line.trim().split(/\s+/).map(Number);
  return !(inside === 0 && outside === 0 && count === 2 ** 32 - 1);
}
