/**
 * `primary`: the host that runs the VM loses power at a random instant, with writes all over its disks; it
 * returns and is brought up to date by records: the survivor's notes, and the dead host's write-intent logs.
 * Both hosts' disks must be equal then, every time. A write that is in neither would be silent corruption.
 *
 * The dead host forgets what it has not synced, and in the extents that its logs name garbage is put on top.
 */
import { setTimeout as pause } from "node:timers/promises";
import { scatterCommand } from "../../src/lab/guest-image.ts";
import { Lab } from "../../src/lab/lab.ts";
import { lastWords } from "../../src/lab/last-words.ts";
import { Dice } from "./dice.ts";
import { expectSound, garble, namedExtents, whatIsThere } from "./lost-writes.ts";

export interface PrimaryKilledOptions {
  readonly kills: number;
  readonly seed: number;
  readonly say: (text: string) => void;
}

/**
 * QEMU flushes a strict disk at each checkpoint, so that a power failure takes little from it; the other one
 * is never flushed.
 */
const DISKS = [
  { mebibytes: 192, use: "load", durability: "replicated" },
  { mebibytes: 96, use: "load", format: "qcow2", bus: "virtio-scsi" },
] as const;
/** A small machine under such a load may keep a guardian from its heartbeats for longer than the default. */
const DETECTION_MS = 1000;
const GARBLED_PLACES = 100;

/** Returns how many of the returns went wrong. */
export async function primaryKilled(
  { kills, say, seed }: PrimaryKilledOptions,
  onLab: (lab: Lab) => void,
): Promise<number> {
  const dice = new Dice(seed);
  // The longer an epoch, the more has been written that the other host does not have.
  const intervalMs = dice.one([25, 400]);
  const lab = await Lab.create({ disks: DISKS, forgetful: true, detectionMs: DETECTION_MS, intervalMs });
  onLab(lab);
  let wrong = 0;
  try {
    await lab.start();
    await lab.protect();
    for (let kill = 1; kill <= kills; kill++) {
      const well = await oneReturn(lab, dice, (text) => say(`kill ${kill} (seed ${seed}): ${text}`));
      if (!well) wrong++;
    }
    return wrong;
  } catch (error) {
    say(await lastWords(lab));
    throw error;
  } finally {
    await lab.destroy();
  }
}

/** Returns whether all was equal in the end, and by records. */
async function oneReturn(lab: Lab, dice: Dice, say: (text: string) => void): Promise<boolean> {
  const load = dice.one(["load", "small", "large"] as const);
  if (load !== "load") {
    const blockKib = load === "small" ? 4 : 1024;
    await lab.redis(...scatterCommand({ disk: "vda", count: 1_000_000, blockKib, restUs: 0 }));
  }
  const seconds = dice.between(0.5, load === "large" ? 20 : 8);
  await pause(seconds * 1000);
  const dead = lab.owner;
  const stalls = await Promise.all([lab.primary, lab.backup].map(({ control }) => control.statusInRole()));
  await lab.kill("power");
  await lab.failedOver();
  await pause(dice.between(0, 1500));
  await lab.disks.powerIsBack(dead);
  const named: number[] = [];
  for (const [disk] of DISKS.entries()) {
    await expectSound(lab, dead, disk);
    const extents = await namedExtents(lab, dead, disk);
    await garble(lab, { host: dead, disk }, extents, { dice, places: GARBLED_PLACES });
    named.push(extents.reduce((sum, { from, to }) => sum + to - from, 0));
  }
  await lab.returnHost();
  await lab.redis(...scatterCommand());
  await lab.protect();
  const { syncs } = await lab.primary.control.primaryStatus();
  const { disks, epoch } = await lab.ramCheck(0, { disks: true });
  const byRecords = syncs.length === DISKS.length && syncs.every(({ way }) => way === "records");
  const equal = disks.every(({ offsets }) => offsets.length === 0);
  const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
  say(
    `host ${dead} died after ${seconds.toFixed(1)} s of load "${load}" (guardians stalled for ${stalls.map(({ longestStallMs }) => longestStallMs.toFixed(0)).join(" and ")} ms at most); its logs named ${named.map(mib).join(" and ")} MiB; ` +
      `${syncs.map(({ disk, sentBytes, way, why }) => `${disk} by ${way}${way === "records" ? "" : `, because ${why}`}, ${mib(sentBytes)} MiB`).join("; ")}; at checkpoint ${epoch} ` +
      (equal ? "all equal" : `THE DISKS DIFFER: ${JSON.stringify(disks)}`),
  );
  for (const { disk, offsets } of disks)
    for (const host of offsets.length > 0 ? (["a", "b"] as const) : [])
      say(await whatIsThere(lab, { host, disk }, offsets[0]!));
  return byRecords && equal;
}
