/** I6 for disks: a link or a backup that does not keep up slows the guest down; no memory grows instead, and the VM answers. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Lab } from "../../src/lab/lab.ts";
import { goesOn, PATIENT } from "./disk-session.ts";
import { assertUnharmed, makeLab, phaseOf } from "./lab-session.ts";

const PROXY = "127.0.0.1:7001";
const BACKUP = "10.78.0.2:7000";
/** Shorter than what PATIENT takes for a failure. */
const HANG_MS = 600;
const LIMITS = { diskMiB: 8, commitMiB: 8, stagingMiB: 16, maxInFlight: 4 };

test("three disks written at once over 20 MB/s, then to a backup that hangs: memory stays, the VM answers", async (t) => {
  const lab = await makeLab(t, {
    ...PATIENT,
    disks: [
      { mebibytes: 64, use: "load" },
      { mebibytes: 64, use: "load" },
      { mebibytes: 64, use: "load", format: "qcow2", bus: "virtio-scsi" },
    ],
    limits: LIMITS,
    replicationPeer: PROXY,
  });
  const proxy = await lab.proxy(PROXY, BACKUP);
  await lab.start();
  const client = lab.client();
  await goesOn(client);
  await lab.protect();
  await goesOn(client);
  const before = await memory(lab);

  await proxy.tell("rate 20000000 up");
  await goesOn(client, 10);
  assertSteady(before, await memory(lab));

  await proxy.tell("pause up");
  const stuck = await memory(lab);
  await sleep(HANG_MS);
  assertSteady(stuck, await memory(lab));
  await proxy.tell("resume up");
  await goesOn(client, 5);
  assert.equal(await phaseOf(lab.primary), "protected");

  await proxy.tell("rate 1000000000 up");
  await goesOn(client, 10);
  assertSteady(before, await memory(lab));
  await assertUnharmed(client);
});

/** Resident memory of the two guardians, in MiB. */
async function memory(lab: Lab): Promise<readonly number[]> {
  return Promise.all([lab.primary, lab.backup].map(({ pid }) => residentMiB(pid)));
}

/** All limits together allow less; three loaded disks write this much in a second or two. */
function assertSteady(before: readonly number[], after: readonly number[]): void {
  for (const [i, mebibytes] of after.entries())
    assert.ok(mebibytes - before[i]! < 96, `a guardian had ${before[i]} MiB, and has ${mebibytes}`);
}

async function residentMiB(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s*(\d+) kB/m.exec(status)![1]) / 1024;
}
