/**
 * I5 for disks: a backup that was away is brought up to date by the cheapest way that is right, and then has
 * the same as the primary (I7).
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { open, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import type { SyncSummary } from "../../src/guardian/control/status.ts";
import { stopInCommit } from "../../src/lab/commit-stop.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { assertHostsEqual, goesOn, PATIENT, syncsOf } from "./disk-session.ts";
import { assertUnharmed, eventually, GRACE_MS, makeLab, phaseOf } from "./lab-session.ts";

const run = promisify(execFile);
const MIB = 1 << 20;
const RAW_BYTES = 40.5 * MIB;
const QCOW2_BYTES = 48 * MIB;

test("the backup is killed in the midst of a commit, and returns: with its images; with a blank one, and one that is damaged and full of garbage", async (t) => {
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

  const changed = await away(lab, async () => {
    await truncate(lab.disks.image("b", 0), 0);
    await truncate(lab.disks.image("b", 0), RAW_BYTES);
    await garbage(lab.disks.image("b", 1));
  });
  assert.deepEqual(
    changed.map(({ why, way }) => [way, why]),
    [
      ["blank", "the backup's image is blank"],
      ["compare", "the backup knows nothing of its image"],
    ],
  );
  assert.equal(changed[1]!.totalBytes, QCOW2_BYTES);
  for (const { why } of changed) assert.ok(told.some((text) => text.includes(why)));
  assert.match(
    await readFile(lab.backup.logFile, "utf8"),
    /"level":40.*vm\.disks\[1\]\.image \S+ is damaged/,
  );

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

/**
 * The backup's host dies in the midst of a commit, something is done to what it has on its disks, it returns,
 * and protects the VM again. Returns how it was brought up to date.
 */
async function away(lab: Lab, meanwhile: () => Promise<void>): Promise<readonly SyncSummary[]> {
  // A part of a checkpoint's writes is in the images: never is that taken for a whole one.
  const { qemuPid } = await stopInCommit(lab, 1, GRACE_MS);
  await lab.kill("processes", "b", qemuPid);
  await eventually("the primary is unprotected", async () => (await phaseOf(lab.primary)) === "unprotected");
  await meanwhile();
  await lab.returnHost();
  await lab.protect();
  const syncs = await syncsOf(lab);
  await assertHostsEqual(lab);
  return syncs;
}

/**
 * Makes the backup's qcow2 image anew, with garbage in it, and with two of its places in one cluster.
 * Offsets: QEMU docs/interop/qcow2.txt.
 */
async function garbage(image: string): Promise<void> {
  await writeFile(`${image}.raw`, randomBytes(QCOW2_BYTES));
  await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", `${image}.raw`, image]);
  await rm(`${image}.raw`);
  const file = await open(image, "r+");
  const number = async (at: number) => {
    const { buffer } = await file.read(Buffer.alloc(8), 0, 8, at);
    return buffer.readBigUInt64BE();
  };
  const table = Number((await number(Number(await number(40)))) & 0x00ff_ffff_ffff_fe00n);
  const entry = Buffer.alloc(8);
  entry.writeBigUInt64BE(await number(table));
  await file.write(entry, 0, 8, table + 8);
  await file.close();
}
