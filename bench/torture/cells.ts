/**
 * The cells of the matrix: what strikes, at which point of the primary's epoch cycle, under which load in the
 * guest.
 */
import { type EpochPoint, epochPoints } from "../../src/os/epoch-points.ts";
import { type FaultName, faultNames } from "./faults.ts";
import { type LoadName, loadNames } from "./loads.ts";

export interface Cell {
  readonly fault: FaultName;
  readonly point: EpochPoint;
  readonly load: LoadName;
}

/** `kill-host/before-capture/disk` */
export function nameOf({ fault, point, load }: Cell): string {
  return `${fault}/${point}/${load}`;
}

/** All of them. */
export const allCells: readonly Cell[] = faultNames.flatMap((fault) =>
  epochPoints.flatMap((point) => loadNames.map((load) => ({ fault, point, load }))),
);

/**
 * The cells that a pattern names: FAULT/POINT/LOAD, where `*` stands for all, and what is left out behind
 * does, too.
 * @throws Error that says which words there are
 */
export function cellsLike(pattern: string): Cell[] {
  const words = pattern.split("/");
  const [fault = "*", point = "*", load = "*"] = words;
  const choices = [
    { word: fault, of: faultNames },
    { word: point, of: epochPoints },
    { word: load, of: loadNames },
  ];
  for (const { word, of } of choices)
    if (word !== "*" && !(of as readonly string[]).includes(word))
      throw new Error(`--cell ${pattern}: "${word}" is none of ${of.join(", ")}, or * for all of them`);
  if (words.length > 3) throw new Error(`--cell ${pattern}: expected FAULT/POINT/LOAD`);
  const fits = (word: string, name: string) => word === "*" || word === name;
  return allCells.filter(
    (cell) => fits(fault, cell.fault) && fits(point, cell.point) && fits(load, cell.load),
  );
}
