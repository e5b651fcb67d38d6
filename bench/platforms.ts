/**
 * `npm run platforms -- [--platform NAME]... [--cell NAME]... [--fresh] [--json FILE]`: the product on other
 * Debians and QEMUs than this machine's, as a new user has it: a root made by debootstrap with Debian's
 * nodejs, npm and git, the project in it, and one command after the other. `--list` names platforms and
 * cells; `--fresh` makes the roots anew.
 *
 * Roots and results stay in .cache/platforms, so that one platform or cell can be run by itself; the table at
 * the end has all that is known. What each command printed is in .cache/platforms/output. The cell "tests" is
 * all of `npm test`; it runs only when it is named. Ends with status 1 if a cell that was run failed. Needs
 * root, debootstrap, and about 3 GB.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Cell, cells, JSON_PLACE } from "./platforms/cells.ts";
import { inside } from "./platforms/inside.ts";
import { readResults, resultsTable, writeResults } from "./platforms/results.ts";
import {
  layProject,
  type Platform,
  platforms,
  projectInside,
  releaseOf,
  rootOf,
  rootsDirectory,
} from "./platforms/roots.ts";

const { values } = parseArgs({
  options: {
    platform: { type: "string", multiple: true, default: [] },
    cell: { type: "string", multiple: true, default: [] },
    fresh: { type: "boolean", default: false },
    list: { type: "boolean", default: false },
    json: { type: "string", default: join(rootsDirectory, "results.json") },
  },
});
const LAST_LINES = 15;
const chosenPlatforms = choose("platform", platforms, values.platform);
const chosenCells = choose("cell", cells, values.cell).filter(
  ({ whenNamed }) => whenNamed === undefined || values.cell.length > 0,
);
const say = (text: string) => process.stdout.write(`${text}\n`);
const figuresFile = "/tmp/remus-figures.json";

if (values.list) {
  say(`platforms: ${platforms.map(({ name }) => name).join(", ")}`);
  say(`cells: ${cells.map(({ name }) => name).join(", ")}`);
  process.exit(0);
}
if (process.geteuid?.() !== 0) fail("roots are made and entered by root alone: run this as root");

/**
 * What runs now ends with us: killing it ends all that it has started, and what is mounted for it goes with
 * it.
 */
let stop: () => void = () => {};
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
  process.once(signal, () => {
    stop();
    process.exit(130);
  });

const commit = spawnSync("git", ["describe", "--always", "--dirty"], {
  cwd: import.meta.dirname,
  encoding: "utf8",
}).stdout.trim();
let failures = 0;
for (const platform of chosenPlatforms) {
  if (values.fresh) await rm(join(rootsDirectory, platform.name), { recursive: true, force: true });
  await tryPlatform(platform, await rootOf(platform, say));
}
const names = (all: readonly { readonly name: string }[]) => all.map(({ name }) => name);
say(`\n${resultsTable(readResults(values.json), names(platforms), names(cells))}`);
process.exit(failures === 0 ? 0 : 1);

async function tryPlatform({ name }: Platform, root: string): Promise<void> {
  await layProject(root);
  for (const cell of chosenCells) {
    say(`${name}: ${cell.name}`);
    const started = performance.now();
    const { status, output, json } = await runCell(root, cell);
    keepOutput(`${name} ${cell.name}`, output);
    const seconds = Math.round((performance.now() - started) / 1000);
    const sawEnough = cell.sawEnough === undefined || (json !== undefined && cell.sawEnough(json));
    const passed = status === 0 && sawEnough;
    if (!passed) failures++;
    const figures = json === undefined && cell.words.includes(JSON_PLACE) ? "" : cell.figures(json, output);
    const lastLines = output.trim().split("\n").slice(-LAST_LINES).join("\n");
    const known = { qemu: qemuVersion(root), release: await releaseOf(root) };
    const at = new Date().toISOString();
    // Another platform may be run beside this one: nothing is waited for between reading and writing.
    const results = readResults(values.json);
    results[name] = { ...known, cells: { ...results[name]?.cells } };
    results[name].cells[cell.name] = {
      passed,
      figures,
      seconds,
      commit,
      at,
      ...(passed ? {} : { lastLines }),
    };
    writeResults(values.json, results);
    say(`  ${passed ? "passed" : "FAILED"} in ${seconds} s${figures === "" ? "" : `: ${figures}`}`);
    if (!passed) say(lastLines.replace(/^/gm, "    "));
  }
}

interface Ran {
  readonly status: number | null;
  readonly output: string;
  /** What the command wrote as its figures. */
  readonly json: unknown;
}

async function runCell(root: string, cell: Cell): Promise<Ran> {
  const file = join(root, figuresFile);
  rmSync(file, { force: true });
  const words = cell.words.map((word) => (word === JSON_PLACE ? figuresFile : word));
  const options = { network: cell.network === true, directory: projectInside };
  const [program, ...args] = inside(root, words, options);
  // A process group of its own: Ctrl-C reaches us alone.
  const child = spawn(program!, args, { stdio: ["ignore", "pipe", "pipe"], detached: true });
  stop = () => child.kill("SIGKILL");
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  stop = () => {};
  return { status, output, json: existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : undefined };
}

/** All that a command printed: its last lines alone do not tell which of many tests failed. */
function keepOutput(name: string, output: string): void {
  const folder = join(rootsDirectory, "output");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${name.replaceAll(/[^a-z0-9-]+/gi, "-")}.log`), output);
}

function qemuVersion(root: string): string {
  const [program, ...words] = inside(root, ["qemu-system-x86_64", "--version"]);
  const { stdout } = spawnSync(program!, words, { encoding: "utf8" });
  return /version (\d+\.\d+\.\d+)/.exec(stdout)?.[1] ?? "not installed";
}

function choose<Named extends { readonly name: string }>(
  what: string,
  all: readonly Named[],
  wanted: readonly string[],
): readonly Named[] {
  for (const name of wanted)
    if (!all.some((one) => one.name === name))
      fail(`there is no ${what} "${name}": ${all.map((one) => one.name).join(", ")}`);
  return wanted.length === 0 ? all : all.filter(({ name }) => wanted.includes(name));
}

function fail(why: string): never {
  process.stderr.write(`${why}\n`);
  process.exit(2);
}
