/**
 * Disks that both hosts see (`storage: shared`): nothing is copied, which is said, and the VM survives its
 * host all the same.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { goesOn, PATIENT, syncsOf } from "./disk-session.ts";
import { assertUnharmed, makeLab, phaseOf } from "./lab-session.ts";

test("a shared disk: a warning, no copy; the VM runs on from it after a failover, protected again (I4)", async (t) => {
  const lab = await makeLab(t, {
    ...PATIENT,
    disks: [{ mebibytes: 64, use: "data", storage: "shared" }],
  });
  await lab.start();
  for (const { logFile } of [lab.primary, lab.backup])
    assert.match(await readFile(logFile, "utf8"), /"level":40.*vm\.disks\[0\].*shared.*not taken back/);
  const client = lab.client();
  await goesOn(client);
  await lab.protect();
  await goesOn(client);
  const { differing, disks } = await lab.ramCheck(0, { disks: true });
  assert.deepEqual({ differing, disks }, { differing: [], disks: [] });
  assert.deepEqual(await syncsOf(lab), []);

  await lab.kill("power");
  await lab.failedOver();
  // Each answer waits for a write to the disk.
  await goesOn(client, 40);
  await lab.returnHost();
  await lab.protect();
  await assert.rejects(lab.primary.control.order("switchover"), /vm\.disks\[0\] is shared storage/);
  assert.equal(await phaseOf(lab.primary), "protected");
  await goesOn(client);
  await assertUnharmed(client);
});
