/** What the core is tested with, and how that is run. Paths are relative to the root of the repository. */
import { join } from "node:path";

/** Tests that need no more than the core, and what they are written in. */
export const TEST_FILES: readonly string[] = ["test/unit/core-*.ts"];

/** What a copy of the repository must hold for them. */
export const COPIED_FILES: readonly string[] = [
  "src/**/*.ts",
  "docs/specs/*.md",
  "package.json",
  ...TEST_FILES,
];

/** Copies are made and removed here. */
export const TEMPORARY = ".cache/mutate";

const runTests = join(import.meta.dirname, "run-tests.ts");
/**
 * Of processor time, which a busy machine does not use up: several times what the tests take when nothing is
 * wrong.
 */
const MOST_CPU_SECONDS = 15;
/** By the clock, for who waits for something that never comes. */
export const MOST_SECONDS = 180;

/**
 * For a shell, in a copy of the repository. Who goes in circles is killed, and that is a failure; also when
 * nobody waits for it any more: `timeout` belongs to coreutils. And who eats memory is stopped before the
 * machine is.
 */
export const TEST_COMMAND =
  `ulimit -t ${MOST_CPU_SECONDS}; ` +
  `exec timeout -s KILL ${2 * MOST_SECONDS} "${process.execPath}" --max-old-space-size=512 "${runTests}"`;
