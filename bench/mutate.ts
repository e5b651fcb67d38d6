/**
 * `npm run mutate [-- src/core/primary.ts …]`: do the core's tests notice when the core is wrong?
 *
 * StrykerJS changes one thing of `src/core` after the other (a condition, a number, a block, an effect left
 * out), and runs the core's tests against each change. What no test notices is a survivor, and printed. Then
 * effects change places, see mutate/orders.ts. Exits with 1 if fewer than 85 % of the changes are noticed, or
 * if effects can change places unnoticed.
 */
import { globSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Stryker } from "@stryker-mutator/core";
import { swapEffects } from "./mutate/orders.ts";
import { COPIED_FILES, MOST_SECONDS, TEMPORARY, TEST_COMMAND } from "./mutate/tests.ts";

type Options = ConstructorParameters<typeof Stryker>[0];

const LEAST_SCORE = 85;

process.chdir(join(import.meta.dirname, ".."));
const { positionals } = parseArgs({ allowPositionals: true, options: {} });
const files = positionals.length > 0 ? positionals : globSync("src/core/**/*.ts").sort();

// It sets the exit code itself when the score is below `break`.
const results = await new Stryker({
  mutate: files,
  ignorePatterns: ["**", ...COPIED_FILES.map((file) => `!${file}`)],
  plugins: [join(import.meta.dirname, "mutate/log-sentences.ts")],
  ignorers: ["log-sentences"],
  testRunner: "command",
  commandRunner: { command: TEST_COMMAND },
  concurrency: availableParallelism(),
  // So long that a busy machine is not taken for a core that goes in circles: a time-out would count as
  // noticed.
  timeoutMS: MOST_SECONDS * 1000,
  tempDirName: TEMPORARY,
  cleanTempDir: "always",
  logLevel: "warn" as NonNullable<Options["logLevel"]>,
  reporters: ["progress-append-only", "clear-text"],
  allowConsoleColors: process.stdout.isTTY,
  clearTextReporter: { allowEmojis: false, reportTests: false, logTests: false },
  thresholds: { high: 95, low: LEAST_SCORE, break: LEAST_SCORE },
}).runMutationTest();

// Noticed, but by no test: worth a look if there are many.
const stopped = results.filter(
  ({ status, statusReason }) => status === "Killed" && !statusReason?.includes("failed: "),
);
console.log(`Changes that were stopped for going in circles: ${stopped.length}`);

const { pairs, unnoticed } = await swapEffects(files);
console.log(`Effects that changed places: ${pairs} pairs, ${unnoticed.length} of them unnoticed`);
for (const line of unnoticed) console.log(`  ${line}`);
if (unnoticed.length > 0) process.exitCode = 1;
