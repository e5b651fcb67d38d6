/**
 * I7 for disks: at a checkpoint the backup's images hold what the primary's do, whatever a guest does to its
 * disks. And I6: a link or a backup that does not keep up slows the guest down; no memory grows instead, and
 * the VM answers.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { guestProblemPrefix } from "../../src/lab/guest-image.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { ProxyProcess } from "../../src/lab/proxy-process.ts";
import {
  askedOfDisks,
  assertHostsEqual,
  assertNothingLost,
  goesOn,
  PATIENT,
  startWithMonitor,
  syncsOf,
} from "./disk-session.ts";
import { assertUnharmed, eventually, makeLab, phaseOf } from "./lab-session.ts";

const LOADED = [1, 2];
/** So much is asked of each loaded disk from one look to the next: writes of 512 bytes to 1 MiB. */
const WRITES = 15;
const PROXY = "127.0.0.1:7001";
const BACKUP = "10.78.0.2:7000";
/** Shorter than what PATIENT takes for a failure. */
const HANG_MS = 600;
const LIMITS = { diskMiB: 8, commitMiB: 8, stagingMiB: 16, maxInFlight: 4 };

test("a file system and two disks under load, raw and qcow2: equal at each look, in two protections, and through a link that is slow and hangs; all there after a failover (I4, I5, I6, I7)", async (t) => {
  const lab = await makeLab(t, {
    ...PATIENT,
    limits: LIMITS,
    replicationPeer: PROXY,
    disks: [
      { mebibytes: 64, use: "data" },
      // Of a size that no block of a sync divides.
      { mebibytes: 48.5, use: "load", contents: "random", virtio: "standard" },
      {
        ...{ mebibytes: 64, use: "load", contents: "random" },
        ...{ format: "qcow2", bus: "virtio-scsi", virtio: "standard" },
      },
    ],
  });
  const proxy = await lab.proxy(PROXY, BACKUP);
  const monitor = await startWithMonitor(t, lab);
  const client = lab.client();
  await goesOn(client);
  const busy = async () => {
    const before = await askedOfDisks(monitor);
    await eventually("both disks are written", async () => {
      const now = await askedOfDisks(monitor);
      return LOADED.every((disk) => now[disk]!.writes - before[disk]!.writes >= WRITES);
    });
  };
  const ways = async () => (await syncsOf(lab)).map(({ way }) => way);

  await lab.protect();
  assert.deepEqual(await ways(), ["blank", "blank", "blank"]);
  await busy();
  await assertHostsEqual(lab);
  await underPressure(lab, proxy, (answers) => goesOn(client, answers));
  await busy();
  await assertHostsEqual(lab);
  await lab.stopProtection();
  await busy();
  await lab.protect();
  assert.deepEqual(await ways(), ["records", "records", "records"]);
  await assertHostsEqual(lab);
  await busy();
  await assertHostsEqual(lab);
  const asked = await askedOfDisks(monitor);
  for (const disk of LOADED) assert.ok(asked[disk]!.flushes > 0, `no flush of disk${disk}`);
  // QEMU does not count those of virtio-blk.
  assert.ok(asked[2]!.discards > 0, "no discard");
  assert.doesNotMatch(await readFile(lab.serialLog, "utf8"), new RegExp(guestProblemPrefix));

  await lab.kill("power");
  await goesOn(client, 40);
  const { highest } = await assertUnharmed(client);
  await lab.kill("power", "b");
  await assertNothingLost(lab.disks.image("b", 0), "raw", highest);
});

/**
 * The way to the backup takes 20 MB/s, then nothing at all, then what it gets: memory stays, and the VM
 * answers.
 */
async function underPressure(
  lab: Lab,
  proxy: ProxyProcess,
  answers: (count: number) => Promise<void>,
): Promise<void> {
  const before = await memory(lab);
  await proxy.tell("rate 20000000 up");
  await answers(4);
  assertSteady(before, await memory(lab));

  await proxy.tell("pause up");
  const stuck = await memory(lab);
  await sleep(HANG_MS);
  assertSteady(stuck, await memory(lab));
  await proxy.tell("resume up");
  await answers(2);
  assert.equal(await phaseOf(lab.primary), "protected");

  await proxy.tell("rate 1000000000 up");
  await answers(10);
  assertSteady(before, await memory(lab));
}

/** Resident memory of the two guardians, in MiB. */
async function memory(lab: Lab): Promise<readonly number[]> {
  return Promise.all([lab.primary, lab.backup].map(({ pid }) => residentMiB(pid)));
}

/**
 * All limits together allow less; how it is with a guest that writes as fast as it can, `npm run disk-soak --
 * pressure` measures.
 */
function assertSteady(before: readonly number[], after: readonly number[]): void {
  for (const [i, mebibytes] of after.entries())
    assert.ok(mebibytes - before[i]! < 96, `a guardian had ${before[i]} MiB, and has ${mebibytes}`);
}

async function residentMiB(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s*(\d+) kB/m.exec(status)![1]) / 1024;
}
