/**
 * One cell: protect, load, strike at the point, see the VM go on, mend, protect again, and look at
 * everything.
 */

import type { ClientProcess } from "../../src/lab/client-process.ts";
import type { ClientSummary } from "../../src/lab/client-report.ts";
import { otherHost } from "../../src/lab/configuration.ts";
import { longestGap } from "../../src/lab/gap-watch.ts";
import { Dice } from "../disk-soak/dice.ts";
import { type Cell, nameOf } from "./cells.ts";
import { faults, strikeAt } from "./faults.ts";
import { type FramesSeen, FrameWatch } from "./frame-watch.ts";
import { begin } from "./loads.ts";
import type { Stage } from "./stage.ts";

const GRACE_MS = 30_000;
/** Enough to see that the client goes on. */
const ANSWERS = 10;
/**
 * The point is passed so often before the strike, at most: the instant within a protection is a matter of
 * chance, too.
 */
const MOST_ARRIVALS = 40;

export interface CellReport {
  /** One sentence for each thing that is not as it must be. */
  readonly wrong: readonly string[];
  readonly arrivals: number;
  /** The client's longest time without an answer from the strike until it has gone on. */
  readonly gapMs: number;
  readonly client: Pick<ClientSummary, "connections" | "resets" | "acked" | "lost" | "wentBack" | "repeated">;
  readonly frames: FramesSeen;
}

/** Throws if the cell cannot be played to its end; what is wrong in the end is told. */
export async function runCell(stage: Stage, cell: Cell, seed: number): Promise<CellReport> {
  const { lab, points, children } = stage;
  const dice = new Dice(seedOf(cell, seed));
  const fault = faults[cell.fault];
  const from = lab.owner;
  const wrong: string[] = [];
  if ((await stage.status(from))?.phase !== "protected") await lab.protect();
  const load = await begin(cell.load, lab, children);
  const watch = await FrameWatch.start(lab, children);
  const client = lab.client();
  await client.answers(ANSWERS, GRACE_MS);

  const qemuPids = { a: await lab.qemuPid("a"), b: await lab.qemuPid("b") };
  const strike = strikeAt(stage, qemuPids, dice);
  const arrivals = 1 + dice.below(MOST_ARRIVALS);
  await points.standStillAt(from, cell.point, arrivals, GRACE_MS);
  const { gapMs } = await longestGap(client, async () => {
    await fault.strike(strike);
    points.go(from);
    await fault.settle(strike);
    await client.answers(1, GRACE_MS);
  });
  await fault.mend(strike);
  await lab.protectAgain();
  await client.answers(ANSWERS, GRACE_MS);

  const expected = fault.moves === "either" ? lab.owner : fault.moves ? strike.to : from;
  if (lab.owner !== expected) wrong.push(`the VM runs on host ${lab.owner}, and should on host ${expected}`);
  wrong.push(...(await hostsCompared(stage)));
  await load.end().catch((error: Error) => wrong.push(error.message));
  if (!(await stage.sameVm())) wrong.push("the guest was booted anew");
  const summary = await finished(client);
  wrong.push(...clientHarmed(summary));
  const frames = await watch.end(from);
  wrong.push(...twoOwners(frames, from, expected));
  const { connections, resets, acked, lost, wentBack, repeated } = summary;
  return {
    wrong,
    arrivals,
    gapMs,
    client: { connections, resets, acked, lost, wentBack, repeated },
    frames,
  };
}

/** The cell's own, so that it can be played alone. */
function seedOf(cell: Cell, seed: number): number {
  let hash = seed;
  for (const letter of nameOf(cell)) hash = (Math.imul(hash, 31) + letter.charCodeAt(0)) | 0;
  return hash;
}

/** I3 by what the guardians say, I7 by their RAM and disks. */
async function hostsCompared(stage: Stage): Promise<string[]> {
  const { lab } = stage;
  const wrong: string[] = [];
  const roles = { [lab.owner]: "primary", [otherHost(lab.owner)]: "backup" };
  for (const host of ["a", "b"] as const) {
    const role = (await stage.status(host))?.role;
    if (role !== roles[host])
      wrong.push(`the guardian of host ${host} says it is ${role}, not ${roles[host]}`);
  }
  const { epoch, differing, disks } = await lab.ramCheck(0, { disks: true });
  if (differing.length > 0) wrong.push(`at checkpoint ${epoch} ${differing.length} RAM pages differ`);
  for (const { disk, offsets } of disks)
    if (offsets.length > 0)
      wrong.push(`at checkpoint ${epoch} disk${disk} differs at ${offsets.slice(0, 4).join(", ")}`);
  return wrong;
}

async function finished(client: ClientProcess): Promise<ClientSummary> {
  await client.answers(1, GRACE_MS);
  return await client.finish();
}

/** What a client must not have seen. */
export function clientHarmed(client: ClientSummary): string[] {
  const wrong: string[] = [];
  if (client.connections !== 1) wrong.push(`the client had ${client.connections} connections`);
  for (const what of ["resets", "lost", "wentBack", "repeated"] as const)
    if (client[what] > 0) wrong.push(`the client counted ${client[what]} ${what}`);
  return wrong;
}

/** I3 by what came out of the hosts. */
function twoOwners(
  { frames, late, lateMs, owners }: FramesSeen,
  from: "a" | "b",
  expected: "a" | "b",
): string[] {
  const wrong: string[] = [];
  if (late > 0)
    wrong.push(
      `${late} frames left host ${from} after host ${otherHost(from)} had begun, up to ${lateMs.toFixed(1)} ms`,
    );
  if (frames[expected] === 0) wrong.push(`no frame left host ${expected}`);
  if (owners.at(-1) !== expected) wrong.push(`the last frame left host ${owners.at(-1)}, not ${expected}`);
  if (expected === from && owners.length > 1) wrong.push(`frames left ${owners.join(", then ")}`);
  return wrong;
}
