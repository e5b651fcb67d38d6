/**
 * `npm run cases`: every fault of the list beside the tests that show that it is gone, run now.
 *
 *   node test/cases/main.ts [NUMBER…] [--list]
 *
 * Status 1 if a test fails, is skipped, or is not there under its title.
 */
import { globSync } from "node:fs";
import { join } from "node:path";
import { run } from "node:test";
import type { Case } from "./case.ts";

const PROJECT = join(import.meta.dirname, "../..");
const TEST_TIMEOUT_MS = 900_000;

type Outcome = "passed" | "failed" | "skipped" | "not there";

const args = process.argv.slice(2);
const wanted = new Set(args.filter((arg) => !arg.startsWith("--")));
const cases = (await allCases()).filter(({ number }) => wanted.size === 0 || wanted.has(String(number)));
const outcomes = args.includes("--list") ? undefined : await outcomesOf(cases);

let good = true;
for (const { input, number, right, tests } of cases) {
  console.log(`\n${String(number).padStart(3)}  ${input}\n     right: ${right}`);
  if (tests.length === 0) good = false;
  for (const { file, name } of tests) {
    const outcome = outcomes?.get(keyOf(file, name)) ?? "not there";
    if (outcomes !== undefined && outcome !== "passed") good = false;
    console.log(`     ${outcomes === undefined ? "-" : outcome}: ${file}: ${name}`);
  }
}
const all = cases.flatMap(({ tests }) => tests.map(({ file, name }) => outcomes?.get(keyOf(file, name))));
const count = (outcome: Outcome) => all.filter((one) => one === outcome).length;
if (outcomes !== undefined) {
  console.log(`\n${cases.length} cases`);
  console.log(`${count("passed")} passed, ${all.length - count("passed")} failed`);
}
process.exit(good ? 0 : 1);

async function allCases(): Promise<Case[]> {
  const found: Case[] = [];
  for (const file of globSync("*.ts", { cwd: import.meta.dirname })) {
    if (file === "main.ts" || file === "case.ts") continue;
    const { cases } = (await import(`./${file}`)) as { cases: readonly Case[] };
    found.push(...cases);
  }
  const order = new Intl.Collator("en", { numeric: true });
  return found.sort((a, b) => order.compare(String(a.number), String(b.number)));
}

/** Runs each file once: unit tests side by side, those that boot something one after the other. */
async function outcomesOf(cases: readonly Case[]): Promise<Map<string, Outcome>> {
  const outcomes = new Map<string, Outcome>();
  const tests = cases.flatMap(({ tests }) => tests);
  for (const [unit, concurrency] of [
    [true, 2],
    [false, 1],
  ] as const) {
    const ofKind = tests.filter(({ file }) => file.startsWith("test/unit/") === unit);
    const files = [...new Set(ofKind.map(({ file }) => join(PROJECT, file)))].sort();
    if (files.length === 0) continue;
    const testNamePatterns = [...new Set(ofKind.map(({ name }) => `/^${escaped(name)}$/`))];
    const stream = run({ files, concurrency, timeout: TEST_TIMEOUT_MS, testNamePatterns });
    stream.on("test:pass", ({ details, file, name, skip }) => {
      if (details.type !== "suite")
        outcomes.set(keyOf(file, name), skip === undefined ? "passed" : "skipped");
    });
    stream.on("test:fail", ({ details, file, name }) => {
      outcomes.set(keyOf(file, name), "failed");
      console.error(`failed: ${name}: ${details.error.cause ?? details.error.message}`);
    });
    for await (const _ of stream);
  }
  return outcomes;
}

function keyOf(file: string | undefined, name: string): string {
  return `${(file ?? "").replace(`${PROJECT}/`, "")}\n${name}`;
}

function escaped(name: string): string {
  return name.replaceAll(/[/\\^$.*+?()[\]{}|]/g, "\\$&");
}
