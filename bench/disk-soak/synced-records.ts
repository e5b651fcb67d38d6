/**
 * `fsync`: a guest on ext4 appends records, syncs each, and only then tells a client of it over TCP. The host
 * is killed at a random instant. On the survivor's disk the file system must be clean, and every record of
 * which the client heard must be there.
 *
 * The records are Redis' append-only file with `appendfsync always`; the host is a new one each time.
 */
import { setTimeout as pause } from "node:timers/promises";
import { countIncrements } from "../../src/lab/append-only-file.ts";
import { checkFileSystem } from "../../src/lab/file-system.ts";
import { Lab } from "../../src/lab/lab.ts";
import { lastWords } from "../../src/lab/last-words.ts";
import { Dice } from "./dice.ts";

export interface SyncedRecordsOptions {
  readonly seeds: number;
  /** The first one. */
  readonly seed: number;
  readonly say: (text: string) => void;
}

const KINDS = [
  { format: "raw", durability: "strict" },
  { format: "raw", durability: "replicated" },
  { format: "qcow2", durability: "strict" },
] as const;
const GRACE_MS = 30_000;
const DETECTION_MS = 500;

/** Returns how many seeds went wrong. */
export async function syncedRecords(
  { say, seed, seeds }: SyncedRecordsOptions,
  onLab: (lab: Lab) => void,
): Promise<number> {
  let wrong = 0;
  for (let one = seed; one < seed + seeds; one++)
    if (!(await oneKill(one, (text) => say(`seed ${one}: ${text}`), onLab))) wrong++;
  return wrong;
}

async function oneKill(
  seed: number,
  say: (text: string) => void,
  onLab: (lab: Lab) => void,
): Promise<boolean> {
  const dice = new Dice(seed);
  const { durability, format } = dice.one(KINDS);
  const lab = await Lab.create({
    disks: [{ mebibytes: 64, use: "data", durability, format }],
    detectionMs: DETECTION_MS,
  });
  onLab(lab);
  try {
    await lab.start();
    const client = lab.client();
    await client.answers(20, GRACE_MS);
    await lab.protect();
    const afterMs = dice.between(0, 4000);
    await pause(afterMs);
    const kind = dice.one(["power", "qemu", "guardian"] as const);
    const at = client.progress?.highest ?? 0;
    await lab.kill(kind);
    await lab.failedOver();
    await client.answers(10, GRACE_MS);
    const { highest, lost, resets, wentBack } = await client.finish();
    await lab.kill("power");
    let increments = 0;
    const { clean, complaint } = await checkFileSystem(lab.disks.image("b", 0), {
      format,
      read: async (files) => {
        increments = await countIncrements((name) => files.read(`/appendonlydir/${name}`), "counter");
      },
    });
    const well = clean && increments >= highest && lost + resets + wentBack === 0;
    say(
      `${format}, ${durability}: killed (${kind}) after ${(afterMs / 1000).toFixed(2)} s at record ${at} or later; the client heard of ${highest} in all, ` +
        `the survivor's disk has ${increments}, fsck ${clean ? "clean" : `says ${complaint}`}; ${lost} lost, ${wentBack} went back, ${resets} resets${well ? "" : ": WRONG"}`,
    );
    return well;
  } catch (error) {
    say(`${(error as Error).message}\n${await lastWords(lab)}`);
    return false;
  } finally {
    await lab.destroy();
  }
}
