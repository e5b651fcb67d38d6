/**
 * `npm run torture -- [--cell kill-host/before-capture/disk] [--seed 1] [--times 1] [--json FILE]`: real
 * faults, exactly at points of the primary's epoch cycle, under load, and a client on TCP that must notice
 * nothing but a short wait. `*` in --cell stands for all; without it, all cells are played. Each cell goes on
 * in the lab that the one before has left; after a failed one a new lab is booted.
 */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import type { Lab } from "../src/lab/lab.ts";
import { lastWords } from "../src/lab/last-words.ts";
import { type CellReport, runCell } from "./torture/cell-run.ts";
import { type Cell, cellsLike, nameOf } from "./torture/cells.ts";
import { Stage } from "./torture/stage.ts";
import { type Played, table } from "./torture/table.ts";

const { values } = parseArgs({
  options: {
    cell: { type: "string", multiple: true, default: ["*"] },
    seed: { type: "string", default: "1" },
    times: { type: "string", default: "1" },
    json: { type: "string" },
  },
});

const beganMs = performance.now();
const say = (text: string) =>
  console.log(`${((performance.now() - beganMs) / 1000).toFixed(1).padStart(7)} s  ${text}`);

let lab: Lab | undefined;
let stage: Stage | undefined;
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => void (stage?.strikeDown() ?? lab?.destroy())?.finally(() => process.exit(130)));

/** Returns what is wrong; with the last words of both guardians, and a lab that is gone, if anything is. */
async function play(cell: Cell, seed: number): Promise<Played> {
  const name = nameOf(cell);
  const began = performance.now();
  let report: CellReport | undefined;
  let wrong: readonly string[];
  try {
    if (stage === undefined) {
      stage = await Stage.set((made) => {
        lab = made;
      });
      say("a lab has booted");
    }
    report = await runCell(stage, cell, seed);
    wrong = report.wrong;
  } catch (error) {
    wrong = [(error as Error).message];
  }
  const seconds = (performance.now() - began) / 1000;
  if (wrong.length === 0) say(`ok      ${name}  ${seconds.toFixed(1)} s: ${describe(report!)}`);
  else {
    say(`FAILED  ${name}  ${seconds.toFixed(1)} s: ${report === undefined ? "" : describe(report)}`);
    for (const one of wrong) console.log(`           ${one}`);
    if (lab !== undefined) console.log(await lastWords(lab));
    console.log(`  again: npm run torture -- --cell ${name} --seed ${seed}`);
    await stage?.strikeDown();
    stage = undefined;
  }
  return { cell, seed, seconds, wrong, ...(report === undefined ? {} : { report }) };
}

function describe({ arrivals, client, frames, gapMs }: CellReport): string {
  return (
    `arrival ${arrivals}, the client waited ${gapMs.toFixed(0)} ms, ${client.acked} answers, ${client.lost} lost, ` +
    `${client.wentBack} went back, ${client.resets} resets; frames from ${frames.owners.join(" then ")}: ${frames.frames.a} + ${frames.frames.b}`
  );
}

const played: Played[] = [];
try {
  const cells = values.cell.flatMap(cellsLike);
  for (let time = 0; time < Number(values.times); time++)
    for (const cell of cells) played.push(await play(cell, Number(values.seed) + time));
} finally {
  await stage?.strikeDown();
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(played, null, 2)}\n`);
console.log(table(played, (performance.now() - beganMs) / 1000));
process.exit(played.every(({ wrong }) => wrong.length === 0) ? 0 : 1);
