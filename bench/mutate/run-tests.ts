/**
 * Runs the core's tests that are below the working directory, in this one process, and ends at the first that
 * fails: exits with 0 if none did. Random tests play the same games in every run, so that a score can be had
 * again.
 */
import { globSync } from "node:fs";
import { run } from "node:test";
import fc from "fast-check";
import { TEST_FILES } from "./tests.ts";

/** They take seconds where others take milliseconds, so they come last. */
const SLOW = /invariants/;

fc.configureGlobal({ seed: 1, endOnFailure: true });
const files = globSync([...TEST_FILES])
  .filter((file) => file.endsWith(".test.ts"))
  .sort((one, other) => Number(SLOW.test(one)) - Number(SLOW.test(other)) || one.localeCompare(other));
if (files.length === 0) throw new Error(`no tests below ${process.cwd()}: expected ${TEST_FILES.join(", ")}`);
const stream = run({ files, isolation: "none" });
stream.on("test:fail", ({ name, details }) => {
  console.log(`failed: ${name}: ${details.error.message}`);
  process.exit(1);
});
stream.resume();
