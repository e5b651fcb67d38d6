/**
 * The lab makes network namespaces and taps, for which it must be root. An ordinary user may be root in a
 * user namespace of their own, if the machine allows it: then the same command is started again in there,
 * with a network and a /run of its own, and nothing of it is left when it ends.
 */
import { execFile, spawn } from "node:child_process";
import { accessSync, constants, existsSync, readFileSync, statSync } from "node:fs";
import { promisify } from "node:util";

const run = promisify(execFile);
const tun = "/dev/net/tun";

/**
 * How this process may go on. `refused.why` is one sentence or two for the user: what is in the way, what to
 * do.
 */
export type Privilege =
  | { readonly kind: "granted" }
  /** The command has run in a user namespace and is over: leave with this status. */
  | { readonly kind: "ranInside"; readonly status: number }
  | { readonly kind: "refused"; readonly why: string };

/**
 * Call it first in a program that needs the lab. Root: granted at once. Else: runs this very program, with
 * the same words, in a user namespace, and returns when that is over; or says why it cannot.
 */
export async function acquirePrivilege(): Promise<Privilege> {
  const isRoot = process.geteuid?.() === 0;
  const why = isRoot ? await obstacleForRoot() : await obstacleForUser();
  if (why !== undefined) return { kind: "refused", why };
  if (isRoot) return { kind: "granted" };
  return { kind: "ranInside", status: await runAgainInside() };
}

async function obstacleForRoot(): Promise<string | undefined> {
  const failure = await failureOf("unshare", [
    "--net",
    "--mount",
    "ip",
    "tuntap",
    "add",
    "dev",
    "probe",
    "mode",
    "tap",
  ]);
  if (failure === undefined) return undefined;
  const device = tunObstacle();
  if (device !== undefined) return device;
  return `This root may not make network namespaces (${failure}). In a container, start it with --privileged.`;
}

/**
 * A user namespace as root, with a network and mounts of its own; and a /run in which `ip netns` may write.
 */
const inside = ["--user", "--map-root-user", "--net", "--mount", "--propagation", "private", "--"];
const withOwnRun = ["sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh"];
/**
 * Dies when its parent does. Asked for on the inside: the kernel forgets it when a process changes user
 * namespaces.
 */
const diesWithUs = ["setpriv", "--pdeathsig", "TERM", "--"];

async function obstacleForUser(): Promise<string | undefined> {
  const probe = "ip netns add probe && ip -n probe tuntap add dev probe mode tap";
  const failure = await failureOf("unshare", [...inside, ...withOwnRun, "sh", "-c", probe]);
  if (failure === undefined) return undefined;
  const asRoot = "Run this as root";
  if (readNumber("/proc/sys/kernel/unprivileged_userns_clone") === 0) {
    return `${asRoot}, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 (as root).`;
  }
  if (readNumber("/proc/sys/user/max_user_namespaces") === 0) {
    return `${asRoot}, or allow user namespaces: sysctl user.max_user_namespaces=10000 (as root).`;
  }
  const device = tunObstacle();
  if (device !== undefined) return `${asRoot}, or let users make taps. ${device}`;
  return `${asRoot}: in a user namespace this machine does not allow what the lab needs (${failure}).`;
}

function tunObstacle(): string | undefined {
  if (!existsSync(tun)) {
    return `${tun} is missing: as root, modprobe tun; in a container, start it with --device ${tun}.`;
  }
  try {
    accessSync(tun, constants.R_OK | constants.W_OK);
    return undefined;
  } catch {
    const mode = (statSync(tun).mode & 0o777).toString(8).padStart(4, "0");
    return `${tun} has mode ${mode}, so only its owner may use it: chmod 0666 ${tun} (as root; what Debian has).`;
  }
}

/** The last line that the command wrote to standard error, if it failed. */
async function failureOf(program: string, words: readonly string[]): Promise<string | undefined> {
  try {
    await run(program, words);
    return undefined;
  } catch (error) {
    const { stderr = "", message } = error as Error & { stderr?: string };
    return stderr.trim().split("\n").at(-1) || message;
  }
}

function readNumber(file: string): number | undefined {
  return existsSync(file) ? Number(readFileSync(file, "utf8")) : undefined;
}

const signalNumbers: Partial<Record<NodeJS.Signals, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGTERM: 15,
  SIGKILL: 9,
};

async function runAgainInside(): Promise<number> {
  const again = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const child = spawn("unshare", [...inside, ...withOwnRun, ...diesWithUs, ...again], { stdio: "inherit" });
  // Ctrl-C reaches the child by itself, from the terminal. The rest we pass on. Both wait for the child to
  // clean up.
  const ignore = () => {};
  const passOn = (signal: NodeJS.Signals) => child.kill(signal);
  process.on("SIGINT", ignore).on("SIGTERM", passOn).on("SIGHUP", passOn);
  try {
    return await new Promise((resolve, reject) => {
      child.on("error", reject);
      child.on("exit", (status, signal) => resolve(status ?? 128 + (signalNumbers[signal!] ?? 0)));
    });
  } finally {
    process.off("SIGINT", ignore).off("SIGTERM", passOn).off("SIGHUP", passOn);
  }
}
