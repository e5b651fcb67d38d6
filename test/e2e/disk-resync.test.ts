/** I5 for disks: a backup that was away is brought up to date by the cheapest way that is right, and then has the same as the primary (I7). */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import type { SyncSummary } from "../../src/guardian/sync-report.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { assertHostsEqual, goesOn, PATIENT, syncsOf } from "./disk-session.ts";
import { assertUnharmed, eventually, makeLab, phaseOf } from "./lab-session.ts";

const run = promisify(execFile);
const MIB = 1 << 20;
const RAW_BYTES = 40.5 * MIB;
const QCOW2_BYTES = 48 * MIB;

test("the backup is killed and returns: with its images, with blank ones, with garbage", async (t) => {
  const told: string[] = [];
  const lab = await makeLab(t, {
    ...PATIENT,
    // Looks at the VM while it has no backup.
    retryMs: 60_000,
    disks: [
      { mebibytes: RAW_BYTES / MIB, use: "load", contents: "random" },
      {
        ...{ mebibytes: QCOW2_BYTES / MIB, use: "load", contents: "random" },
        format: "qcow2",
        bus: "virtio-scsi",
      },
    ],
    onEvent: (host, event) => {
      if (host === "a" && event.text !== undefined) told.push(event.text);
    },
  });
  await lab.start();
  const client = lab.client();
  await goesOn(client);
  await lab.protect();
  const first = await syncsOf(lab);

  await onRecord(lab);
  await goesOn(client);
  const quick = await away(lab, async () => {});
  for (const [disk, { totalBytes, way, why }] of quick.entries()) {
    assert.equal(way, "records", why);
    assert.ok(totalBytes < first[disk]!.totalBytes / 2, `looked at ${totalBytes} bytes of disk${disk}`);
    assert.ok(told.some((text) => text.includes(`disk${disk} `) && text.includes("quick resync")));
  }
  await goesOn(client);

  const blank = await away(lab, async () => {
    await fill(lab, Buffer.alloc(0));
  });
  for (const { way, why } of blank) assert.equal(way, "blank", why);

  const garbage = await away(lab, async () => {
    await fill(lab, randomBytes(QCOW2_BYTES));
    await rm(join(lab.disks.stateDirectory("b"), `${lab.vm.name}.json`));
  });
  for (const [disk, { totalBytes, way, why }] of garbage.entries()) {
    assert.deepEqual([way, why], ["compare", "the backup knows nothing of its image"]);
    assert.equal(totalBytes, [RAW_BYTES, QCOW2_BYTES][disk]);
    assert.ok(told.some((text) => text.includes(`disk${disk} `) && text.includes(why)));
  }
  await assertUnharmed(client);
});

/** The backup's images are so far on stable storage that a quick resync can begin there. */
async function onRecord(lab: Lab): Promise<void> {
  const path = join(lab.disks.stateDirectory("b"), `${lab.vm.name}.json`);
  await eventually("the backup notes what is safe", async () => {
    const { durableEpoch = 0 } = JSON.parse(await readFile(path, "utf8")) as { durableEpoch?: number };
    return durableEpoch > 10;
  });
}

/** The backup's host dies, something is done to what it has on its disks, it returns, and protects the VM again. Returns how it was brought up to date. */
async function away(lab: Lab, meanwhile: () => Promise<void>): Promise<readonly SyncSummary[]> {
  await lab.kill("guardian", "b");
  await eventually("the primary is unprotected", async () => (await phaseOf(lab.primary)) === "unprotected");
  await meanwhile();
  await lab.returnHost();
  await lab.protect();
  const syncs = await syncsOf(lab);
  await assertHostsEqual(lab);
  return syncs;
}

/** Makes the backup's images anew, with as much of `bytes` as there is. */
async function fill(lab: Lab, bytes: Buffer): Promise<void> {
  const [raw, qcow2] = [lab.disks.image("b", 0), lab.disks.image("b", 1)];
  await writeFile(raw, bytes.subarray(0, RAW_BYTES));
  await truncate(raw, RAW_BYTES);
  await writeFile(`${qcow2}.raw`, bytes);
  await truncate(`${qcow2}.raw`, QCOW2_BYTES);
  await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", `${qcow2}.raw`, qcow2]);
  await rm(`${qcow2}.raw`);
}
