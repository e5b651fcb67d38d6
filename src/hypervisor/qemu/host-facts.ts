/** What preflight has to know of the host, looked up: programs, taps, rights, memory. No judgement here. */
import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, readFile, stat, statfs } from "node:fs/promises";
import { delimiter, dirname, join } from "node:path";
import { promisify } from "node:util";
import { cgroupMemory } from "../../os/cgroup-memory.ts";
import { networkLink } from "../../os/network-link.ts";
import { parseQemuVersion, type QemuVersion } from "./traps.ts";

const run = promisify(execFile);
const CAP_NET_ADMIN = 12n;
const TMPFS = 0x01021994;

/** A network device of that name in this network namespace. */
export interface LinkFact {
  readonly kind: "tap" | "other";
  /** Of the device itself, and of the bridge whose port it is. */
  readonly macs: readonly string[];
  readonly multiQueue: boolean;
  readonly up: boolean;
  /** Some process has it open. Known only of a device that is up. */
  readonly busy: boolean;
  /** User and group that may open it without rights of their own; where there is neither, everybody may. */
  readonly owner: number | undefined;
  readonly group: number | undefined;
}

export type Reach = "open" | "closed" | "missing";

export interface HostFacts {
  readonly qemu: {
    readonly binary: string;
    readonly version: QemuVersion | undefined;
    readonly problem: string;
  };
  readonly gcc: boolean;
  readonly links: ReadonlyMap<string, LinkFact | undefined>;
  readonly tun: Reach;
  readonly netAdmin: boolean;
  readonly userId: number;
  readonly groupIds: readonly number[];
  readonly runDirectory: Reach;
  readonly files: ReadonlyMap<string, Reach>;
  readonly memAvailableMiB: number;
  readonly memoryLimitHint?: string;
}

export async function lookAtHost(question: {
  binary: string;
  taps: readonly string[];
  files: readonly string[];
  runDirectory: string;
}): Promise<HostFacts> {
  const { R_OK, W_OK, X_OK } = constants;
  return {
    qemu: await lookAtQemu(question.binary),
    gcc: await isProgram("gcc"),
    links: new Map(question.taps.map((tap) => [tap, link(tap)])),
    tun: await dial("/dev/net/tun", R_OK | W_OK),
    netAdmin: await hasNetAdmin(),
    userId: process.geteuid!(),
    groupIds: [process.getegid!(), ...process.getgroups!()],
    runDirectory: await dial(await nearest(question.runDirectory), W_OK | X_OK),
    files: new Map(await each(question.files, (file) => dial(file, R_OK))),
    memAvailableMiB: await memAvailableMiB(),
    memoryLimitHint: await memoryLimitHint(),
  };
}

/**
 * What can still be taken: `MemAvailable` of /proc/meminfo, or less where a control group's limit allows
 * less.
 */
export async function memAvailableMiB(): Promise<number> {
  const match = /^MemAvailable:\s+(\d+) kB/m.exec(await readFile("/proc/meminfo", "utf8"));
  const host = match === null ? Number.POSITIVE_INFINITY : Math.floor(Number(match[1]) / 1024);
  const group = await cgroupMemory();
  return group === undefined ? host : Math.min(host, Math.floor(group.bytes / 2 ** 20));
}

/**
 * The end of a remedy where memory lacks: what else could be done, and begins with a blank; empty where no
 * limit is set.
 */
export async function memoryLimitHint(): Promise<string> {
  const group = await cgroupMemory();
  if (group === undefined) return "";
  return ` The limit in ${group.limit} leaves ${Math.floor(group.bytes / 2 ** 20)} MiB (MemoryMax= of the unit): raise it if that is why.`;
}

export interface DirectoryFact {
  readonly dial: Reach;
  readonly freeMiB: number;
  /** It lives in memory: what is written there is taken from MemAvailable too. */
  readonly inMemory: boolean;
}

/** The directory, or the nearest above it that exists. */
export async function directory(path: string): Promise<DirectoryFact> {
  const existing = await nearest(path);
  const { type, bavail, bsize } = await statfs(existing);
  return {
    dial: await dial(existing, constants.W_OK | constants.X_OK),
    freeMiB: Math.floor((bavail * bsize) / 2 ** 20),
    inMemory: type === TMPFS,
  };
}

/** Bytes of space that a file takes; none if it is not there. */
export async function spaceOf(path: string): Promise<number> {
  const found = await stat(path).catch(() => undefined);
  return (found?.blocks ?? 0) * 512;
}

async function nearest(path: string): Promise<string> {
  const there = await stat(path).catch(() => undefined);
  return there !== undefined || dirname(path) === path ? path : nearest(dirname(path));
}

/** What this host's QEMU says it is. */
export async function lookAtQemu(binary = "qemu-system-x86_64"): Promise<HostFacts["qemu"]> {
  try {
    const { stdout } = await run(binary, ["--version"]);
    const version = parseQemuVersion(stdout);
    const problem = version === undefined ? `its --version says "${stdout.split("\n")[0]}"` : "";
    return { binary, version, problem };
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    return { binary, version: undefined, problem: missing ? "it is not installed" : String(error) };
  }
}

function link(name: string): LinkFact | undefined {
  const found = networkLink(name);
  if (found === undefined) return undefined;
  const { carrier, mac, master, tap, up } = found;
  const bridge = master === undefined ? undefined : networkLink(master);
  return {
    kind: tap === undefined ? "other" : "tap",
    macs: [mac, ...(bridge === undefined ? [] : [bridge.mac])],
    multiQueue: tap?.multiQueue === true,
    up,
    busy: tap !== undefined && carrier,
    owner: tap?.owner,
    group: tap?.group,
  };
}

async function hasNetAdmin(): Promise<boolean> {
  const match = /^CapEff:\s+([0-9a-f]+)/m.exec(await readFile("/proc/self/status", "utf8"));
  return match !== null && ((BigInt(`0x${match[1]}`) >> CAP_NET_ADMIN) & 1n) === 1n;
}

async function dial(path: string, mode: number): Promise<Reach> {
  try {
    await access(path, mode);
    return "open";
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT" ? "missing" : "closed";
  }
}

async function isProgram(name: string): Promise<boolean> {
  const places = (process.env.PATH ?? "").split(delimiter).map((dir) => join(dir, name));
  const found = await Promise.all(places.map((place) => dial(place, constants.X_OK)));
  return found.includes("open");
}

function each<T>(
  names: readonly string[],
  look: (name: string) => Promise<T>,
): Promise<(readonly [string, T])[]> {
  return Promise.all(names.map(async (name) => [name, await look(name)] as const));
}
