/**
 * `npm run switchover -- [--times 20] [--load idle|busy] [--json FILE]`: planned switchovers there and back in one lab, under the eyes of one TCP client: how
 * long it was without an answer each time, and what that time went into. A disk with Redis's data, every write synced, goes along.
 *
 * Ends with status 1 if anything was lost, or the median of the gaps is above 100 ms.
 */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { otherHost } from "../src/lab/configuration.ts";
import { longestGap } from "../src/lab/gap-watch.ts";
import { Lab } from "../src/lab/lab.ts";
import { lastWords } from "../src/lab/last-words.ts";

const { values } = parseArgs({
  options: {
    times: { type: "string", default: "20" },
    load: { type: "string", default: "idle" },
    json: { type: "string" },
  },
});
const MOST_MS = 100;
const PATIENCE_MS = 30_000;
const ANSWERS = 20;

interface Move {
  readonly to: string;
  readonly gapMs: number;
  /** At the new host, from the hearing of HANDOVER on: to the arbiter's word, to images that the VM can have, to its first instruction. */
  readonly grantedMs: number;
  readonly imagesMs: number;
  readonly takeoverMs: number;
}

function percentile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((one, other) => one - other);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

const lab = await Lab.create({
  load: values.load as "idle" | "busy",
  disks: [{ mebibytes: 128, use: "data" }],
  // How long a failure takes to be noticed is not the question here: a busy machine shall not look like one.
  detectionMs: 1000,
});
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => void lab.destroy().finally(() => process.exit(130)));
try {
  await lab.start();
  const client = lab.client();
  await client.answers(ANSWERS, PATIENCE_MS);
  await lab.protect();
  const moves: Move[] = [];
  for (let time = 1; time <= Number(values.times); time++) {
    await lab.untilProtected();
    await client.answers(ANSWERS, PATIENCE_MS);
    const { gapMs } = await longestGap(client, async () => {
      await lab.switchover();
      await client.answers(ANSWERS, PATIENCE_MS);
    });
    const { failover } = await lab.primary.control.order<{
      failover: { detectedAtMs: number; grantedAtMs: number; imagesFreeAtMs: number; runningAtMs: number };
    }>("status");
    const { detectedAtMs } = failover;
    const takeoverMs = failover.runningAtMs - detectedAtMs;
    moves.push({
      to: lab.owner,
      gapMs,
      grantedMs: failover.grantedAtMs - detectedAtMs,
      imagesMs: failover.imagesFreeAtMs - detectedAtMs,
      takeoverMs,
    });
    console.log(
      `${String(time).padStart(3)}: ${otherHost(lab.owner)} to ${lab.owner}: the client waited ${gapMs.toFixed(0)} ms, ${takeoverMs.toFixed(0)} ms of it from HANDOVER to the VM running`,
    );
  }
  await lab.untilProtected();
  const { disks, differing } = await lab.ramCheck(0, { disks: true });
  const blocks = disks.reduce((sum, { offsets }) => sum + offsets.length, 0);
  const { acked, connections, lost, repeated, resets, wentBack } = await client.finish();
  const row = (what: string, of: readonly number[]) =>
    `${what.padEnd(34)}${[0.5, 0.95, 1].map((share) => percentile(of, share).toFixed(0).padStart(8)).join("")}`;
  console.log(`\n${"ms".padEnd(34)}${["p50", "p95", "max"].map((text) => text.padStart(8)).join("")}`);
  console.log(
    row(
      "the client's gap",
      moves.map(({ gapMs }) => gapMs),
    ),
  );
  console.log(
    row(
      "HANDOVER heard to granted",
      moves.map(({ grantedMs }) => grantedMs),
    ),
  );
  console.log(
    row(
      "… to images free",
      moves.map(({ imagesMs }) => imagesMs),
    ),
  );
  console.log(
    row(
      "… to the VM running",
      moves.map(({ takeoverMs }) => takeoverMs),
    ),
  );
  console.log(
    `client: ${connections} connection, ${resets} resets, ${acked} answers, ${lost} lost, ${wentBack} went back, ${repeated} repeated; ` +
      `in the end ${differing.length} RAM pages and ${blocks} disk blocks differ`,
  );
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(moves, null, 2)}\n`);
  const harmed = lost + wentBack + repeated + resets + differing.length + blocks + (connections - 1);
  const slow =
    percentile(
      moves.map(({ gapMs }) => gapMs),
      0.5,
    ) > MOST_MS;
  process.exitCode = harmed === 0 && !slow ? 0 : 1;
} catch (error) {
  console.error(await lastWords(lab));
  throw error;
} finally {
  await lab.destroy();
}
