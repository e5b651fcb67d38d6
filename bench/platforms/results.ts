/**
 * What came of the cells, kept in one file, so that a platform or a cell can be run by itself and the table
 * is whole all the same.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

export interface CellResult {
  readonly passed: boolean;
  readonly figures: string;
  readonly seconds: number;
  /** The project's commit, and when it ran. */
  readonly commit: string;
  readonly at: string;
  /** The last lines of one that failed. */
  readonly lastLines?: string;
}

export interface PlatformResults {
  /** `QEMU emulator version …`, as it says itself. */
  qemu: string;
  /** The release: /etc/debian_version. */
  release: string;
  readonly cells: Record<string, CellResult>;
}

export type Results = Record<string, PlatformResults>;

export function readResults(file: string): Results {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Results;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return {};
    throw error;
  }
}

export function writeResults(file: string, results: Results): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(results, null, 2)}\n`);
}

/** One row a cell, one column a platform, in Markdown. */
export function resultsTable(
  results: Results,
  platforms: readonly string[],
  cells: readonly string[],
): string {
  const known = platforms.filter((name) => results[name] !== undefined);
  const row = (words: readonly string[]) => `| ${words.join(" | ")} |`;
  const head = known.map((name) => `${name} (${results[name]!.release}), QEMU ${results[name]!.qemu}`);
  const show = (result: CellResult | undefined) =>
    result === undefined
      ? "not run"
      : `${result.passed ? "passed" : "**failed**"}${result.figures === "" ? "" : `: ${result.figures}`}`;
  return [
    row(["", ...head]),
    row(["---", ...head.map(() => "---")]),
    ...cells.map((cell) => row([cell, ...known.map((name) => show(results[name]!.cells[cell]))])),
  ].join("\n");
}
