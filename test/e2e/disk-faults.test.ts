/**
 * I5 for disks: whatever becomes of their replication, the VM runs on, it is said why it is unprotected, and
 * it can be protected again. And of a disk with `durability: replicated`: whenever one host alone holds it,
 * its flushes reach the storage.
 */
import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { test } from "node:test";
import {
  assertHostsEqual,
  assertNothingLost,
  flushing,
  goesOn,
  ownStorage,
  PATIENT,
  startWithMonitor,
  syncsOf,
} from "./disk-session.ts";
import { assertUnharmed, eventually, makeLab, phaseOf } from "./lab-session.ts";

test("a job cancelled by somebody, an endpoint that is cut off, a backup whose storage is full, then a failover (I4, I5)", async (t) => {
  const told: string[] = [];
  const lab = await makeLab(t, {
    ...PATIENT,
    // Looks at the VM while it has no backup.
    retryMs: 60_000,
    disks: [
      { mebibytes: 64, use: "data", durability: "replicated" },
      { mebibytes: 64, use: "load" },
    ],
    onEvent: (host, { text }) => {
      if (host === "a" && text !== undefined) told.push(text);
    },
  });
  const storage = await ownStorage(lab, "b", 1, 96);
  const monitor = await startWithMonitor(t, lab);
  const client = lab.client();
  await goesOn(client);
  assert.deepEqual(await flushing(monitor), [true, true]);

  const begins = async () => {
    told.length = 0;
    await lab.protect();
    await eventually("one disk is flushed by two memories", async () => !(await flushing(monitor))[0]);
    assert.deepEqual(await flushing(monitor), [false, true]);
    await goesOn(client, 5);
  };
  const endsWith = async (sentence: RegExp) => {
    await eventually("protection has ended", async () => (await phaseOf(lab.primary)) === "unprotected");
    assert.match(told.join("\n"), sentence);
    assert.deepEqual(await flushing(monitor), [true, true]);
    await goesOn(client);
  };

  await begins();
  await monitor.execute("block-job-cancel", { device: "remus-disk1", force: true });
  await endsWith(/copying disk writes failed: The mirror of disk1 failed: somebody cancelled the job/);

  await begins();
  await monitor.execute("yank", { instances: [{ type: "block-node", "node-name": "disk1-remote" }] });
  await endsWith(/copying disk writes failed: .*disk1/);

  await begins();
  const filler = await storage.fill();
  await endsWith(/the backup cannot go on: .*disk1.*(No space|ENOSPC)/i);
  assert.equal(await phaseOf(lab.backup), "waiting");
  await assert.rejects(lab.protect(), /cannot go on: .*(No space|ENOSPC)/i);
  await eventually("that is over", async () => (await phaseOf(lab.primary)) === "unprotected");
  await rm(filler);

  await begins();
  // What came in when the storage was full is a mixture.
  assert.deepEqual(
    (await syncsOf(lab)).map(({ way, why }) => [way, why]),
    [0, 1].map(() => ["compare", "the backup knows nothing of its image"]),
  );
  await assertHostsEqual(lab);
  await lab.kill("power");
  await goesOn(client, 50);
  const { highest } = await assertUnharmed(client);
  await lab.kill("power", "b");
  await assertNothingLost(lab.disks.image("b", 0), "raw", highest);
});
