/**
 * Which image a path leads to, in words that two hosts share: so that one image which both of them see is not
 * taken for two. The backup writes older data than the primary does: on one and the same image that destroys
 * the disk of the running VM.
 */
import { readFile, realpath, stat } from "node:fs/promises";
import { dirname, join } from "node:path";

/** On these several hosts see one file. Not all of them tell when a file was made. */
const SHARED =
  /^(nfs4?|cifs|smb3|ceph|gfs2|ocfs2|lustre|beegfs|gpfs|fuse\.(glusterfs|ceph.*|sshfs|moosefs))$/;

/**
 * Undefined where nothing tells two images of two hosts apart; then only the locks of a shared file system
 * do.
 */
export async function imageIdentity(path: string): Promise<string | undefined> {
  const facts = await stat(path, { bigint: true });
  const { birthtimeNs, ctimeNs, dev, ino } = facts;
  if (facts.isBlockDevice()) return await deviceIdentity(numbers(facts.rdev));
  // Where the file system does not know, Node gives 0 or the time of the last change.
  if (birthtimeNs !== 0n && birthtimeNs !== ctimeNs) return `file ${ino} of ${birthtimeNs}`;
  const from = await mountedFrom(numbers(dev));
  if (from !== undefined) return `file ${ino} of ${from}`;
  return birthtimeNs === 0n ? undefined : `file ${ino} of ${birthtimeNs}`;
}

function numbers(device: bigint): string {
  const [major, minor] = [(device >> 8n) & 0xfffn, (device & 0xffn) | ((device >> 12n) & 0xfff00n)];
  return `${major}:${minor}`;
}

/**
 * By what the device says of itself: a disk of a storage network, multipath or LVM says the same on every
 * host.
 */
async function deviceIdentity(device: string): Promise<string | undefined> {
  const folder = await realpath(`/sys/dev/block/${device}`).catch(() => undefined);
  if (folder === undefined) return undefined;
  const part = await text(join(folder, "partition"));
  const whole = part === "" ? folder : dirname(folder);
  const names = await Promise.all(["dm/uuid", "wwid", "device/wwid"].map((name) => text(join(whole, name))));
  const name = names.find(isUnique);
  return name === undefined ? undefined : `device ${name}${part === "" ? "" : `, partition ${part}`}`;
}

/** Emulated disks all have the same name, if nobody gave them another one. */
export function isUnique(name: string): boolean {
  return /[1-9a-f]/i.test(name.replace(/^(naa|eui|t10|uuid)\./, "")) && !/QEMU|VBOX|Virtual/i.test(name);
}

/** `server:/export` of a file system that several hosts share; undefined of others. */
async function mountedFrom(device: string): Promise<string | undefined> {
  for (const line of (await text("/proc/self/mountinfo")).split("\n")) {
    const [, , numbers, ...rest] = line.split(" ");
    const [type = "", source] = rest.slice(rest.indexOf("-") + 1);
    if (numbers === device && SHARED.test(type)) return source;
  }
  return undefined;
}

async function text(path: string): Promise<string> {
  return (await readFile(path, "utf8").catch(() => "")).trim();
}
