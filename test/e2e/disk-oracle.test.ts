/** I7 for disks: at a checkpoint the backup's images hold what the primary's do, whatever a guest does to its disks. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { guestProblemPrefix } from "../../src/lab/guest-image.ts";
import {
  askedOfDisks,
  assertHostsEqual,
  assertNothingLost,
  goesOn,
  PATIENT,
  startWithMonitor,
  syncsOf,
} from "./disk-session.ts";
import { assertUnharmed, eventually, makeLab } from "./lab-session.ts";

const LOADED = [1, 2];
/** So much is asked of each loaded disk from one look to the next: writes of 512 bytes to 1 MiB. */
const WRITES = 15;

test("a file system and two disks under load, raw and qcow2: equal at each look, in two protections; all there after a failover (I4, I5, I7)", async (t) => {
  const lab = await makeLab(t, {
    ...PATIENT,
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
  for (let look = 0; look < 2; look++) {
    await busy();
    await assertHostsEqual(lab);
  }
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
