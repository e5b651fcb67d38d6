/**
 * `npm run test-failover`: what a test failover costs the protection. One VM with a disk with Redis's data on
 * it, another one that is written all over, and a client that counts; by turns without a clone, with one,
 * without, and so on, in one run. A turn is measured from before the clone is asked for, so its making
 * counts.
 *
 * Options: --rounds 5, --seconds 6 (a turn), --load idle|busy (of guest, and so of the clone; default idle).
 * Ends with status 1 if the median rate of checkpoints with a clone is below 90 % of that without.
 */
import { parseArgs } from "node:util";
import { Lab } from "../src/lab/lab.ts";
import { lastWords } from "../src/lab/last-words.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "6" },
    load: { type: "string", default: "idle" },
  },
});
const LEAST = 0.9;

interface Turn {
  readonly perSecond: number;
  readonly pauseMs: number;
  readonly answersPerSecond: number;
}

const pause = (ms: number) => new Promise((next) => setTimeout(next, ms));

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.ceil(sorted.length / 2) - 1] ?? Number.NaN;
}

const lab = await Lab.create({
  load: values.load as "idle" | "busy",
  disks: [
    { mebibytes: 256, use: "data" },
    { mebibytes: 128, use: "load", contents: "random" },
  ],
  // How long a failure takes to be noticed is not the question here: a busy machine shall not look like one.
  detectionMs: 1000,
});
const clone = (action: "start" | "stop") => lab.backup.control.order("test-failover", { action });
try {
  await lab.start();
  const client = lab.client();
  await client.answers(20, 30_000);
  await lab.protect();
  await client.answers(20, 30_000);
  await pause(2_000);

  const turn = async (withClone: boolean): Promise<Turn> => {
    await lab.primary.control.order("reset-statistics");
    const answers = client.progress!.acked;
    const began = performance.now();
    if (withClone) await clone("start");
    await pause(Number(values.seconds) * 1000 - (performance.now() - began));
    const { checkpointsPerSecond, pauseMs } = await lab.primary.control.primaryStatus();
    const seconds = (performance.now() - began) / 1000;
    if (withClone) await clone("stop");
    return {
      perSecond: checkpointsPerSecond,
      pauseMs: pauseMs.p50,
      answersPerSecond: (client.progress!.acked - answers) / seconds,
    };
  };
  const turns = { without: [] as Turn[], with: [] as Turn[] };
  console.log("clone     checkpoints/s   pause p50 ms   answers/s");
  for (let round = 0; round < Number(values.rounds); round++)
    for (const kind of ["without", "with"] as const) {
      const one = await turn(kind === "with");
      turns[kind].push(one);
      const columns = [one.perSecond.toFixed(1), one.pauseMs.toFixed(2), one.answersPerSecond.toFixed(1)];
      console.log(`${kind.padEnd(8)} ${columns.map((text) => text.padStart(14)).join(" ")}`);
    }
  const rate = (kind: "without" | "with") => median(turns[kind].map(({ perSecond }) => perSecond));
  const share = rate("with") / rate("without");
  console.log(
    `median checkpoints/s: ${rate("without").toFixed(1)} without, ${rate("with").toFixed(1)} with a clone: ${(100 * share).toFixed(1)} %`,
  );
  const { lost, wentBack, repeated, resets } = await client.finish();
  console.log(`client: lost ${lost}, wentBack ${wentBack}, repeated ${repeated}, resets ${resets}`);
  process.exitCode = share >= LEAST && lost + wentBack + repeated + resets === 0 ? 0 : 1;
} catch (error) {
  console.error(await lastWords(lab));
  throw error;
} finally {
  await lab.destroy();
}
