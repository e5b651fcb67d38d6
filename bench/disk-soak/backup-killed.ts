/**
 * `backup`: the backup's host fails in the midst of putting a large checkpoint into its images: a part of its
 * writes is there, the rest is not. It returns with that mixture, which must never be taken for a whole
 * image. Either the VM's host lives, and both are equal once it is protected again; or that fails, too,
 * before the mixture has been mended: then the VM must not run from it, and runs again when its own host is
 * back.
 */
import { setTimeout as pause } from "node:timers/promises";
import { stopInCommit } from "../../src/lab/commit-stop.ts";
import { scatterCommand } from "../../src/lab/guest-image.ts";
import { Lab } from "../../src/lab/lab.ts";
import { lastWords } from "../../src/lab/last-words.ts";
import { Dice } from "./dice.ts";
import { expectSound, stateOf } from "./lost-writes.ts";

export interface BackupKilledOptions {
  readonly kills: number;
  readonly seed: number;
  readonly say: (text: string) => void;
}

const DISKS = [
  { mebibytes: 192, use: "load" },
  { mebibytes: 96, use: "load", format: "qcow2", bus: "virtio-scsi" },
] as const;
const DETECTION_MS = 1000;
/** The longer an epoch, the larger a checkpoint. */
const INTERVAL_MS = 400;
const LARGE_BYTES = 2 << 20;
const GRACE_MS = 30_000;
/** Longer than a backup waits before it asks for a VM whose host is gone. */
const TEMPTATION_MS = 3 * DETECTION_MS;

/** Returns how many of the deaths went wrong. */
export async function backupKilled(
  { kills, say, seed }: BackupKilledOptions,
  onLab: (lab: Lab) => void,
): Promise<number> {
  const dice = new Dice(seed);
  // By itself a survivor would begin to mend the mixture as soon as it can.
  const timing = { detectionMs: DETECTION_MS, intervalMs: INTERVAL_MS, retryMs: 600_000 };
  const lab = await Lab.create({ disks: DISKS, forgetful: true, ...timing });
  onLab(lab);
  let wrong = 0;
  try {
    await lab.start();
    await lab.protect();
    for (let kill = 1; kill <= kills; kill++) {
      const well = await oneDeath(lab, dice, (text) => say(`kill ${kill} (seed ${seed}): ${text}`));
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

async function oneDeath(lab: Lab, dice: Dice, say: (text: string) => void): Promise<boolean> {
  await lab.redis(...scatterCommand({ disk: "vda", count: 1_000_000, blockKib: 1024, restUs: 0 }));
  await pause(dice.between(500, 4000));
  const { qemuPid, waitingBytes } = await stopInCommit(lab, LARGE_BYTES, GRACE_MS);
  const kind = dice.one(["power", "processes", "qemu"] as const);
  await lab.kill(kind, "b", qemuPid);
  await until("the VM is alone", async () => (await phase(lab, "primary")) === "unprotected");
  await lab.redis(...scatterCommand());
  await pause(dice.between(0, 1500));
  await lab.disks.powerIsBack("b");
  const { images } = await stateOf(lab, "b");
  await expectSound(lab, "b", 1);
  await lab.returnHost();
  const alsoOwner = dice.below(3) === 0;
  if (alsoOwner) await ownerDies(lab, dice);
  await lab.protect();
  const { syncs } = await lab.primary.control.primaryStatus();
  const { disks } = await lab.ramCheck(0, { disks: true });
  const equal = disks.every(({ offsets }) => offsets.length === 0);
  say(
    `died (${kind}) with ${(waitingBytes / 2 ** 20).toFixed(1)} MiB of checkpoints half in its images, which it calls "${images}"; ` +
      `${alsoOwner ? "the VM's host lost power, too, and the VM waited for it; " : ""}` +
      `${syncs.map(({ disk, way }) => `${disk} by ${way}`).join(", ")}; ${equal ? "all equal" : `THE DISKS DIFFER: ${JSON.stringify(disks)}`}`,
  );
  return equal && images !== "owner";
}

/** At rest, or in the midst of mending the mixture. @throws if the VM runs from it */
async function ownerDies(lab: Lab, dice: Dice): Promise<void> {
  const mending = dice.below(2) === 0;
  if (mending) {
    lab.primary.control.order("protect").catch(() => {});
    await pause(dice.between(50, 400));
  }
  await lab.kill("power", "a");
  for (const end = performance.now() + TEMPTATION_MS; performance.now() < end; await pause(50)) {
    const { role } = await lab.backup.control.status();
    if (role !== "backup") throw new Error("the VM runs from images that are a mixture");
  }
  await lab.returnOwner();
  await until("the VM has booted again", async () => (await lab.redis("PING").catch(() => "")) === "PONG");
}

async function phase(lab: Lab, which: "primary" | "backup"): Promise<string> {
  return (await lab[which].control.statusInRole()).phase;
}

async function until(what: string, look: () => Promise<boolean>): Promise<void> {
  for (const deadline = performance.now() + GRACE_MS; !(await look()); await pause(20))
    if (performance.now() > deadline) throw new Error(`not within ${GRACE_MS} ms: ${what}`);
}
