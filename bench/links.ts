/**
 * `npm run links`: what a second link between the hosts costs, and what its clients notice when one is
 * pulled. In one run, by turns: checkpoints a second and the pause with one link and with two; then, with
 * two, the cable over which the checkpoints go is pulled (silently: nothing tells either host), put back, and
 * so on, and the longest time that a client waits for an answer is taken each time, beside the same time
 * without a cut.
 *
 * Options: --cuts 12, --rounds 2, --seconds 8 (of each round and kind), --load idle|busy (default idle).
 * Ends with status 1 if a cut was more than an event: a failover, a lost or repeated answer, a reset.
 */
import { parseArgs } from "node:util";
import { longestGap } from "../src/lab/gap-watch.ts";
import { Lab } from "../src/lab/lab.ts";
import { lastWords } from "../src/lab/last-words.ts";

const { values } = parseArgs({
  options: {
    cuts: { type: "string", default: "12" },
    rounds: { type: "string", default: "2" },
    seconds: { type: "string", default: "8" },
    load: { type: "string", default: "idle" },
  },
});
const load = values.load as "idle" | "busy";
/** From the cut on; TCP would have tried again by then. */
const WINDOW_MS = 1_500;

const pause = (ms: number) => new Promise((next) => setTimeout(next, ms));

function percentile(numbers: readonly number[], share: number): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

const summary = (numbers: readonly number[]) =>
  `median ${percentile(numbers, 0.5).toFixed(0)}, p95 ${percentile(numbers, 0.95).toFixed(0)}, max ${percentile(numbers, 1).toFixed(0)} ms (${numbers.length})`;

async function protectedLab(links: 1 | 2): Promise<{ lab: Lab; client: ReturnType<Lab["client"]> }> {
  const lab = await Lab.create({ load, links });
  try {
    await lab.start();
    const client = lab.client();
    await client.answers(20, 30_000);
    await lab.protect();
    await client.answers(20, 30_000);
    return { lab, client };
  } catch (error) {
    console.error(await lastWords(lab));
    await lab.destroy();
    throw error;
  }
}

async function cost(links: 1 | 2): Promise<void> {
  const { lab } = await protectedLab(links);
  try {
    await pause(1_000);
    await lab.primary.control.order("reset-statistics");
    await pause(Number(values.seconds) * 1000);
    const { checkpointsPerSecond, pauseMs } = await lab.primary.control.primaryStatus();
    const { p50, p95, p99 } = pauseMs;
    const columns = [checkpointsPerSecond.toFixed(1), p50.toFixed(2), p95.toFixed(2), p99.toFixed(2)];
    console.log(`${links === 1 ? "one" : "two"}   ${columns.map((text) => text.padStart(14)).join(" ")}`);
  } finally {
    await lab.destroy();
  }
}

/** Returns whether every cut was but an event. */
async function cuts(count: number): Promise<boolean> {
  const { lab, client } = await protectedLab(2);
  const status = () => lab.primary.control.statusInRole();
  const backup = () => lab.backup.control.statusInRole();
  const allUp = async () => {
    for (const end = performance.now() + 20_000; performance.now() < end; await pause(20))
      if ([await status(), await backup()].every(({ paths }) => paths.every(({ up }) => up))) return;
    throw new Error("the paths do not come back");
  };
  try {
    await allUp();
    const { generation } = await status();
    const [without, during, back]: [number[], number[], number[]] = [[], [], []];
    for (let cut = 1; cut <= count; cut++) {
      without.push((await longestGap(client, () => pause(WINDOW_MS))).gapMs);
      const carrier = (await status()).paths.findIndex(({ carries }) => carries);
      const link = carrier === 0 ? "link1" : "link2";
      const { gapMs } = await longestGap(client, async () => {
        await lab.cut(link);
        await pause(WINDOW_MS);
      });
      during.push(gapMs);
      const mended = performance.now();
      await lab.mend(link);
      await allUp();
      back.push(performance.now() - mended);
      console.log(`cut ${cut} of ${link}: the client waited ${gapMs.toFixed(0)} ms at most`);
    }
    const after = await status();
    const { lost, wentBack, repeated, resets, connections } = await client.finish();
    console.log(`longest wait without a cut: ${summary(without)}`);
    console.log(`longest wait with a cut:    ${summary(during)}`);
    console.log(`until the path is back:     ${summary(back)}`);
    console.log(
      `client: connections ${connections}, lost ${lost}, wentBack ${wentBack}, repeated ${repeated}, resets ${resets}`,
    );
    const still = after.phase === "protected" && after.generation === generation;
    if (!still) console.log(`the VM is ${after.phase} (generation ${after.generation}): that was a failover`);
    return still && connections === 1 && lost + wentBack + repeated + resets === 0;
  } catch (error) {
    console.error(await lastWords(lab));
    throw error;
  } finally {
    await lab.destroy();
  }
}

console.log("links  checkpoints/s   pause p50 ms         p95 ms         p99 ms");
for (let round = 0; round < Number(values.rounds); round++)
  for (const links of [1, 2] as const) await cost(links);
process.exitCode = (await cuts(Number(values.cuts))) ? 0 : 1;
