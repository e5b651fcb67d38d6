/** What a run of the matrix came to, for people. */
import { epochPoints } from "../../src/os/epoch-points.ts";
import type { CellReport } from "./cell-run.ts";
import type { Cell } from "./cells.ts";
import { faultNames } from "./faults.ts";

/** A cell that was played once. */
export interface Played {
  readonly cell: Cell;
  readonly seed: number;
  readonly seconds: number;
  /** Empty if all is as it must be. */
  readonly wrong: readonly string[];
  /** Missing if the cell was not played to its end. */
  readonly report?: CellReport;
}

/**
 * A row for each fault, a column for each point, all loads together: how many went well, of how many. And the
 * sums.
 */
export function table(played: readonly Played[], seconds: number): string {
  const wide = Math.max(...epochPoints.map((point) => point.length)) + 2;
  const row = (first: string, cells: readonly string[]) =>
    `  ${first.padEnd(14)}${cells.map((cell) => cell.padStart(wide)).join("")}`;
  const rows = faultNames.map((fault) => {
    const counts = epochPoints.map((point) => {
      const here = played.filter(({ cell }) => cell.fault === fault && cell.point === point);
      return here.length === 0 ? "-" : `${well(here)}/${here.length}`;
    });
    return row(fault, counts);
  });
  const sum = (what: "acked" | "lost" | "wentBack" | "resets") =>
    played.reduce((total, { report }) => total + (report?.client[what] ?? 0), 0);
  const late = played.reduce((total, { report }) => total + (report?.frames.late ?? 0), 0);
  return [
    "",
    row("", epochPoints),
    ...rows,
    "",
    `  ${well(played)} of ${played.length} cells as they must be, in ${(seconds / 60).toFixed(1)} minutes, ${(seconds / Math.max(1, played.length)).toFixed(1)} s a cell`,
    `  client: ${sum("acked")} answers, ${sum("lost")} lost, ${sum("wentBack")} went back, ${sum("resets")} resets; frames of two owners: ${late}`,
    "",
  ].join("\n");
}

function well(played: readonly Played[]): number {
  return played.filter(({ wrong }) => wrong.length === 0).length;
}
