/**
 * `resync`: a host loses power and is away for a minute while the survivor changes a hundredth of a large
 * disk; then it returns. First it is brought up to date by records, then, after another absence in which its
 * records were lost, by hashes. The VM runs throughout, and a client of it must not notice.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { SyncSummary } from "../../src/guardian/control/status.ts";
import type { ClientProcess } from "../../src/lab/client-process.ts";
import { longestGap } from "../../src/lab/gap-watch.ts";
import { scatterCommand } from "../../src/lab/guest-image.ts";
import { Lab } from "../../src/lab/lab.ts";

export interface ReturnedLateOptions {
  readonly mebibytes: number;
  readonly soloSeconds: number;
  readonly say: (text: string) => void;
}

const CHANGED = 0.01;
const BLOCK_KIB = 4;
/** Of the disk: what a resync may cost on the wire. */
const MOST = 0.03;
const DETECTION_MS = 1000;
const GRACE_MS = 60_000;
/** A checkpoint's worth and a good deal more; a failover takes longer. */
const GAP_MS = 1000;

/** Returns how many of the two returns went wrong. */
export async function returnedLate(
  { mebibytes, say, soloSeconds }: ReturnedLateOptions,
  onLab: (lab: Lab) => void,
): Promise<number> {
  const disks = [{ mebibytes, use: "idle", contents: "random" }] as const;
  const lab = await Lab.create({ disks, detectionMs: DETECTION_MS });
  onLab(lab);
  let wrong = 0;
  try {
    await lab.start();
    const client = lab.client();
    await client.answers(20, GRACE_MS);
    await lab.protect();
    await client.answers(100, GRACE_MS);
    for (const way of ["records", "compare"] as const) {
      const dead = lab.owner;
      await lab.kill("power");
      await lab.failedOver();
      await client.answers(20, GRACE_MS);
      if (way === "compare") await rm(join(lab.disks.stateDirectory(dead), `${lab.vm.name}.json`));
      if (!(await solo(lab, { client, mebibytes, soloSeconds, way, say }))) wrong++;
    }
    const { acked, connections, lost, resets, wentBack } = await client.finish();
    say(
      `the client: ${connections} connection, ${resets} resets, ${acked} answers, ${lost} lost, ${wentBack} went back`,
    );
    return wrong + resets + lost + wentBack;
  } finally {
    await lab.destroy();
  }
}

interface Absence extends ReturnedLateOptions {
  readonly client: ClientProcess;
  readonly way: SyncSummary["way"];
}

async function solo(lab: Lab, { client, mebibytes, say, soloSeconds, way }: Absence): Promise<boolean> {
  const bytes = mebibytes * 2 ** 20;
  const count = Math.round((bytes * CHANGED) / (BLOCK_KIB * 1024));
  const before = Number(await lab.redis("GET", "scattered"));
  await lab.redis(...scatterCommand({ disk: "vda", count, blockKib: BLOCK_KIB, restUs: 0 }));
  const beganMs = performance.now();
  while (Number(await lab.redis("GET", "scattered")) === before) await pause(500);
  await pause(Math.max(0, soloSeconds * 1000 - (performance.now() - beganMs)));
  const seconds = (performance.now() - beganMs) / 1000;
  const { gapMs } = await longestGap(client, async () => {
    await lab.returnHost();
    await lab.protect();
    await client.answers(20, GRACE_MS);
  });
  const { syncs } = await lab.primary.control.primaryStatus();
  const sync = syncs[0]!;
  const { disks } = await lab.ramCheck(0, { disks: true });
  const differing = disks.reduce((sum, { offsets }) => sum + offsets.length, 0);
  const share = sync.wireBytes / bytes;
  say(
    `${seconds.toFixed(0)} s solo, ${count} blocks of ${BLOCK_KIB} KiB written; resync by ${sync.way} (${sync.why}) in ${sync.seconds.toFixed(1)} s: ` +
      `${(sync.totalBytes / 2 ** 20).toFixed(1)} MiB looked at, ${(sync.wireBytes / 2 ** 20).toFixed(1)} MiB on the wire, ${(share * 100).toFixed(2)} % of the disk; ` +
      `the client waited ${gapMs.toFixed(0)} ms at most; ${differing} blocks differ afterwards`,
  );
  return sync.way === way && share <= MOST && differing === 0 && gapMs < GAP_MS;
}
