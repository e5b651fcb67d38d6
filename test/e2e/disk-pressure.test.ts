/** I6 for disks: a link or a backup that does not keep up slows the guest down; no memory grows instead, and the VM answers. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { goesOn, PATIENT } from "./disk-session.ts";
import { assertUnharmed, makeLab, phaseOf } from "./lab-session.ts";

const PROXY = "127.0.0.1:7001";
const BACKUP = "10.78.0.2:7000";
const LIMITS = { diskMiB: 8, commitMiB: 8, stagingMiB: 16, maxInFlight: 4 };

test("three disks written at once over 6 MB/s, then to a backup that hangs: memory stays, the VM answers", async (t) => {
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
  const memory = async () => Promise.all([lab.primary, lab.backup].map(({ pid }) => residentMiB(pid)));
  console.log(await memory());
  await proxy.tell("rate 6000000 up");
  for (let i = 0; i < 5; i++) {
    await goesOn(client, 10);
    console.log(await memory(), JSON.stringify(await lab.primary.control.order("status")));
    console.log(JSON.stringify(await lab.backup.control.order("status")));
  }
  await proxy.tell("rate 1000000000 up");
  await goesOn(client, 10);
  assert.equal(await phaseOf(lab.primary), "protected");
  await assertUnharmed(client);
});

async function residentMiB(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s*(\d+) kB/m.exec(status)![1]) / 1024;
}
