/**
 * `npm run partitions -- [--kind link|cut-off|*] [--times 20] [--json FILE]`: the hosts lose each other while
 * both live, again and again in one lab.
 *
 * - `link`: the cable between them is out, and both reach the witness. Exactly one of them goes on.
 * - `cut-off`: the host that runs the VM loses that cable and the witness. The other one goes on; the old VM
 *   runs on meanwhile, with output that it would like to send, and releases nothing from the moment at which
 *   the witness has given the VM away. Healed, its VM is stopped and it is a backup.
 *
 * All that the guest sends is watched at the switch, between the hosts and the client (I3); a client counts
 * on one TCP connection (I4). Ends with status 1 if any round is not as it must be.
 */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { Lab } from "../src/lab/lab.ts";
import { lastWords } from "../src/lab/last-words.ts";
import { Partitions, partitionKinds, type Round } from "./partitions/round.ts";

const { values } = parseArgs({
  options: {
    kind: { type: "string", default: "*" },
    times: { type: "string", default: "20" },
    json: { type: "string" },
  },
});
const kinds = partitionKinds.filter((kind) => values.kind === "*" || values.kind === kind);
if (kinds.length === 0) throw new Error(`--kind ${values.kind}: expected ${partitionKinds.join(", ")}, or *`);

const lab = await Lab.create({
  disks: [{ mebibytes: 64, use: "data" }],
  // As for npm run torture: nobody may fail over unasked, and nobody waits for protection longer than for the
  // failure.
  detectionMs: 1000,
  retryMs: 500,
});
const partitions = new Partitions(lab);
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => void partitions.end().finally(() => process.exit(130)));

const rounds: Round[] = [];
let failed = false;
try {
  await lab.start();
  await lab.protect();
  for (const kind of kinds)
    for (let time = 1; time <= Number(values.times); time++) {
      const began = performance.now();
      const round = await partitions.play(kind);
      rounds.push(round);
      const { from, gapMs, heldBytes, to, wrong } = round;
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      const held = kind === "cut-off" ? `, ${heldBytes} bytes kept back on host ${from}` : "";
      console.log(
        `${wrong.length === 0 ? "ok    " : "FAILED"} ${kind} ${time}: host ${from} had the VM, ${to} goes on, the client waited ${gapMs.toFixed(0)} ms${held}  (${seconds} s)`,
      );
      for (const one of wrong) console.log(`         ${one}`);
    }
  failed = rounds.some(({ wrong }) => wrong.length > 0);
} catch (error) {
  failed = true;
  console.error(`${(error as Error).message}\n${await lastWords(lab)}`);
} finally {
  await partitions.end();
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(rounds, null, 2)}\n`);
for (const kind of kinds) {
  const of = rounds.filter((round) => round.kind === kind);
  const well = of.filter(({ wrong }) => wrong.length === 0).length;
  const gaps = of.map(({ gapMs }) => gapMs).sort((one, other) => one - other);
  const sum = (what: (round: Round) => number) => of.reduce((total, round) => total + what(round), 0);
  console.log(
    `${kind}: ${well} of ${values.times} as they must be; the VM moved ${of.filter(({ from, to }) => from !== to).length} times; the client waited ` +
      `${gaps.at(Math.floor((gaps.length - 1) / 2))?.toFixed(0)} ms in the median, ${gaps.at(-1)?.toFixed(0)} at most; ${sum(({ client }) => client.acked)} answers, ` +
      `${sum(({ client }) => client.lost)} lost, ${sum(({ client }) => client.wentBack)} went back, ${sum(({ client }) => client.resets)} resets; frames of two owners: ${sum(({ late }) => late)}`,
  );
}
process.exit(failed ? 1 : 0);
