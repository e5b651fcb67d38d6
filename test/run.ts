/**
 * `npm test`: first what takes seconds (format and lint, types, layers, dead code), then the unit tests side
 * by side, then the end-to-end tests one after the other, since each of them has the machine to itself.
 *
 *   node test/run.ts [--checks | --unit | --e2e | --long]
 *
 * `--long` is what takes minutes each (`npm run test:long`), and no part of the others.
 */
import { spawnSync } from "node:child_process";
import { globSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, relative } from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { completeSearchPath } from "../src/lab/search-path.ts";

completeSearchPath(process.env);
/** Each test file is a process of its own, and loads much the same as the others. */
process.env.NODE_COMPILE_CACHE ??= join(import.meta.dirname, "../.cache/compile");

const checks: readonly (readonly string[])[] = [
  ["biome", "ci", "--colors=off", "--error-on-warnings", "."],
  ["tsc", "-p", "."],
  ["depcruise", "--config", ".dependency-cruiser.cjs", "src", "test"],
  ["knip"],
  ["node", "test/comment-width.ts"],
];

function check(): boolean {
  return checks.every(([program, ...args]) => {
    const started = performance.now();
    const { status } = spawnSync(program!, args, { stdio: "inherit" });
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.log(`${status === 0 ? "ok" : "FAILED"}: ${program} ${args.join(" ")} (${seconds} s)`);
    return status === 0;
  });
}

interface Count {
  passed: number;
  skipped: number;
  /** By file and name. */
  readonly failed: string[];
}

/** Runs test files; counts single tests, not the suites that hold them. */
async function test(pattern: string, concurrency: number, count: Count, timeout = 300_000): Promise<void> {
  const stream = run({ files: globSync(pattern).sort(), concurrency, timeout });
  stream.on("test:pass", ({ details, skip }) => {
    if (details.type === "suite") return;
    if (skip === undefined) count.passed++;
    else count.skipped++;
  });
  stream.on("test:fail", ({ details, file, name }) => {
    if (details.type !== "suite") count.failed.push(`${relative(process.cwd(), file ?? "")}: ${name}`);
  });
  for await (const line of stream.compose(spec)) process.stdout.write(String(line));
}

/** What failed, once more at the end: what a log of a thousand tests is read for. */
function summarize({ failed, passed, skipped }: Count): void {
  for (const one of failed) console.log(`failed: ${one}`);
  console.log(`${passed} passed, ${failed.length} failed, ${skipped} skipped`);
}

const only = process.argv[2];
const count: Count = { passed: 0, skipped: 0, failed: [] };
let ok = true;
if (only === undefined || only === "--checks") ok = check();
if (only === "--long") {
  await test("test/long/*.test.ts", 1, count, 900_000);
  summarize(count);
} else if (ok && only !== "--checks") {
  if (only !== "--e2e") await test("test/unit/*.test.ts", availableParallelism(), count);
  if (only !== "--unit") await test("test/e2e/*.test.ts", 1, count);
  summarize(count);
}
process.exit(ok && count.failed.length === 0 ? 0 : 1);
