/**
 * `pressure`: the guest writes as fast as it can, 1 MiB at a time, while the link gets slower and slower, and
 * then the backup's disk. The guest is to become as slow as what is behind it; the memory of the guardians
 * must not grow with what it would like to write; and the VM answers all the while.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import { scatterCommand } from "../../src/lab/guest-image.ts";
import { Lab } from "../../src/lab/lab.ts";

export interface SlowBackupOptions {
  readonly seconds: number;
  readonly say: (text: string) => void;
}

const MIB = 1 << 20;
const PROXY = "127.0.0.1:7001";
const BACKUP = "10.78.0.2:7000";
const LIMITS = { diskMiB: 8, commitMiB: 8, stagingMiB: 16 };
/** Beside what is limited: code that is compiled, garbage that is not collected yet, what the kernel has. */
const MOST_GROWTH_MIB = 128;
const GRACE_MS = 60_000;

/** Each has the primary's way to the backup limited to so many MB/s; undefined: not. */
const LINKS = [undefined, 50, 20, 5] as const;

/** Returns how many things went wrong. */
export async function slowBackup(
  { say, seconds }: SlowBackupOptions,
  onLab: (lab: Lab) => void,
): Promise<number> {
  const lab = await Lab.create({
    disks: [{ mebibytes: 256, use: "idle" }],
    ...{ detectionMs: 1000, limits: LIMITS, replicationPeer: PROXY },
  });
  onLab(lab);
  let monitor: Qmp | undefined;
  try {
    const proxy = await lab.proxy(PROXY, BACKUP);
    // Both hosts get the words, and the path leads to the QEMU that was started last.
    const path = join(lab.directory, "admin.sock");
    const extraArgs = ["-qmp", `unix:${path},server=on,wait=off`];
    await lab.startBackup({ extraArgs });
    await lab.startPrimary({ extraArgs });
    monitor = await Qmp.connect(path);
    await lab.guestReady();
    const client = lab.client();
    await client.answers(20, GRACE_MS);
    await lab.redis(...scatterCommand({ disk: "vda", count: 1_000_000, blockKib: 1024, restUs: 0 }));
    const alone = await rateOf(monitor, seconds, async () => {});
    say(`unprotected: the guest writes ${alone.toFixed(1)} MiB/s`);
    await lab.protect();
    await client.answers(20, GRACE_MS);
    let wrong = 0;
    const before = await memory(lab);
    for (const link of LINKS) {
      if (link !== undefined) await proxy.tell(`rate ${link * 1e6} up`);
      const most = [0, 0];
      const answered = client.progress?.acked ?? 0;
      const beganMs = performance.now();
      const rate = await rateOf(monitor, seconds, async () => {
        for (const [i, mebibytes] of (await memory(lab)).entries()) most[i] = Math.max(most[i]!, mebibytes);
      });
      // Behind a slow link an answer waits for all that was written before it.
      await client.answers(2, GRACE_MS);
      const took = ((performance.now() - beganMs) / 1000).toFixed(0);
      const answers = (client.progress?.acked ?? 0) - answered;
      const grown = most.map((mebibytes, i) => mebibytes - before[i]!);
      const steady = grown.every((mebibytes) => mebibytes < MOST_GROWTH_MIB);
      // What is under way at the beginning and the end counts, too.
      const slowed = link === undefined || rate * MIB < link * 1e6 + (4 * LIMITS.diskMiB * MIB) / seconds;
      const well = steady && slowed;
      if (!well) wrong++;
      say(
        `protected, ${link === undefined ? "a free link" : `a link of ${link} MB/s`}: the guest writes ${rate.toFixed(1)} MiB/s; ` +
          `the guardians have ${most.map((mebibytes) => mebibytes.toFixed(0)).join(" and ")} MiB at most, ` +
          `${grown.map((mebibytes) => mebibytes.toFixed(0)).join(" and ")} more than before; ${answers} answers in ${took} s${well ? "" : ": WRONG"}`,
      );
    }
    const { lost, resets, wentBack } = await client.finish();
    return wrong + lost + resets + wentBack;
  } finally {
    monitor?.close();
    await lab.destroy();
  }
}

/** MiB/s that the guest's writes to its disk came to, looked at through the device's counters. */
async function rateOf(monitor: Qmp, seconds: number, meanwhile: () => Promise<void>): Promise<number> {
  const began = await written(monitor);
  const beganMs = performance.now();
  while (performance.now() - beganMs < seconds * 1000) {
    await meanwhile();
    await pause(50);
  }
  return ((await written(monitor)) - began) / MIB / ((performance.now() - beganMs) / 1000);
}

async function written(monitor: Qmp): Promise<number> {
  const all = await monitor.execute<{ qdev?: string; stats: { wr_bytes: number } }[]>("query-blockstats");
  return all.find(({ qdev }) => qdev?.includes("vdisk0"))!.stats.wr_bytes;
}

/** Resident memory of the two guardians, in MiB, without the RAM image that the backup maps. */
async function memory(lab: Lab): Promise<number[]> {
  return Promise.all(
    [lab.primary, lab.backup].map(async ({ pid }) => {
      const status = await readFile(`/proc/${pid}/status`, "utf8");
      return Number(/^RssAnon:\s*(\d+) kB/m.exec(status)![1]) / 1024;
    }),
  );
}
