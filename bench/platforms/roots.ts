/**
 * The systems that Remus is tried on: Debian as `debootstrap` lays it down, below .cache/platforms, with
 * nothing more in it than Debian's own nodejs, npm and git. Made once and used again. Where packages come
 * from is what this machine's apt says.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { appendFile, copyFile, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { inside } from "./inside.ts";

const run = promisify(execFile);
const OUTPUT_BYTES = 64 << 20;

export interface Platform {
  readonly name: string;
  /** Debian's name of the release. */
  readonly suite: string;
  /** QEMU comes from the release's backports. */
  readonly backports?: true;
}

export const platforms: readonly Platform[] = [
  { name: "debian-12", suite: "bookworm" },
  { name: "debian-13", suite: "trixie" },
  { name: "debian-13-backports", suite: "trixie", backports: true },
];

const base = ["ca-certificates", "git", "nodejs", "npm"];

/** Where this project lies in a root. */
export const projectInside = "/root/remus";
const project = join(import.meta.dirname, "../..");
export const rootsDirectory = join(project, ".cache/platforms");

/** The root of a platform, made if it is not there. Whole or not at all. */
export async function rootOf(platform: Platform, say: (text: string) => void): Promise<string> {
  const root = join(rootsDirectory, platform.name);
  if (existsSync(root)) return root;
  await mkdir(rootsDirectory, { recursive: true });
  const fresh = `${root}.${process.pid}`;
  say(`${platform.name}: debootstrap`);
  try {
    const mirror = await debianMirror();
    await command("debootstrap", ["--variant=minbase", platform.suite, fresh, mirror]);
    await takeSettings(fresh);
    say(`${platform.name}: Debian's ${base.join(", ")}`);
    await install(fresh, base);
    if (platform.backports) {
      const line = `deb ${mirror} ${platform.suite}-backports main\n`;
      await appendFile(join(fresh, "etc/apt/sources.list"), line);
      say(`${platform.name}: QEMU from backports`);
      await install(fresh, ["-t", `${platform.suite}-backports`, "qemu-system-x86", "qemu-utils"]);
    }
    await rename(fresh, root);
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
  return root;
}

/**
 * Puts the project as git has it, changes of the work tree included, in place of what lay there; what set-up
 * has brought stays.
 */
export async function layProject(root: string): Promise<void> {
  const place = join(root, projectInside);
  await mkdir(place, { recursive: true });
  for (const name of await readdir(place))
    if (name !== "node_modules" && name !== ".cache") await rm(join(place, name), { recursive: true });
  const list = "git ls-files -z --cached --others --exclude-standard --deduplicate";
  const present = `${list} | xargs -0 sh -c 'for f; do [ ! -e "$f" ] || printf "%s\\0" "$f"; done' sh`;
  const script = `${present} | tar --null --files-from=- --create | tar --extract --directory "$1"`;
  await run("sh", ["-c", script, "sh", place], { cwd: project, maxBuffer: OUTPUT_BYTES });
}

async function install(root: string, packages: readonly string[]): Promise<void> {
  const script =
    "apt-get -qq update && DEBIAN_FRONTEND=noninteractive " +
    'apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install "$@"';
  const [program, ...words] = inside(root, ["sh", "-c", script, "sh", ...packages], { network: true });
  await command(program!, words);
}

/**
 * What apt and npm need to know of this machine's network: proxies, certificates. Nothing of it is the
 * project's.
 */
async function takeSettings(root: string): Promise<void> {
  const proxies = (await run("apt-config", ["dump"])).stdout.split("\n");
  const wanted = proxies.filter((line) => /^Acquire::(https?|ftp)::(Proxy|Verify)/i.test(line));
  await writeFile(
    join(root, "etc/apt/apt.conf.d/90this-machine"),
    wanted.map((line) => `${line}\n`).join(""),
  );
  const npmrc = join(process.env.HOME ?? "/root", ".npmrc");
  if (existsSync(npmrc)) await copyFile(npmrc, join(root, "root/.npmrc"));
}

/** The archive that this machine's apt takes Debian from. */
export async function debianMirror(): Promise<string> {
  const { stdout } = await run("apt-get", ["indextargets", "--format", "$(SITE) $(ORIGIN) $(LABEL)"]);
  const line = stdout.split("\n").find((one) => /^\S+ Debian Debian$/.test(one));
  if (line === undefined) throw new Error("apt knows no Debian archive: run apt-get update as root");
  return line.split(" ")[0]!;
}

async function command(program: string, words: readonly string[]): Promise<void> {
  try {
    await run(program, [...words], { maxBuffer: OUTPUT_BYTES });
  } catch (cause) {
    const { code, stderr = "", stdout = "" } = cause as { code?: unknown; stderr?: string; stdout?: string };
    if (code === "ENOENT")
      throw new Error(`${program} is missing: apt-get install debootstrap util-linux`, { cause });
    const tail = `${stdout}${stderr}`.trim().split("\n").slice(-8).join("\n");
    throw new Error(`${program} failed:\n${tail}`, { cause });
  }
}

/** Every source list names the release; used where one is asked which QEMU it brings. */
export async function releaseOf(root: string): Promise<string> {
  const text = await readFile(join(root, "etc/debian_version"), "utf8");
  return text.trim();
}
