/**
 * What stands in the way is said in one sentence before anything is touched; a VM that runs is left as it was
 * (I5).
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { processRuns } from "../../src/lab/lab.ts";
import { makeLab, phaseOf } from "./lab-session.ts";

test("a tap that is not there: the guardian does not start, and names it", async (t) => {
  const lab = await makeLab(t, {});
  const nics = [{ mac: "52:54:00:72:65:00", tap: "tap9" }];
  await assert.rejects(
    lab.startPrimary({ nics }),
    /vm\.nics\[0\]\.tap "tap9" does not exist.*ip tuntap add tap9/s,
  );
});

test("more memory than the backup has: its guardian does not start, and leaves no image", async (t) => {
  const lab = await makeLab(t, {});
  await assert.rejects(lab.startBackup({ memoryMiB: 4 << 20 }), /lacks memory for the standby: \d+ MiB/);
  assert.ok(!existsSync(`${lab.directory}/image/lab.ram`));
});

test("a device that cannot be migrated: refused by its name", async (t) => {
  const lab = await makeLab(t, {});
  const extraArgs = ["-device", "vfio-pci,host=00:02.0"];
  await assert.rejects(lab.startPrimary({ extraArgs }), /vfio-pci/);
});

test("another machine at the backup: protection is refused with field and values, the VM runs on", async (t) => {
  const lab = await makeLab(t, {});
  await lab.startPrimary();
  const qemuPid = await lab.qemuPid("a");
  await lab.startBackup({ vcpus: 2 });
  await assert.rejects(lab.protect(), /vcpus is 1 at the primary and 2 at the backup\. Make them equal/);
  assert.equal(await phaseOf(lab.primary), "unprotected");
  assert.ok(processRuns(qemuPid));
});
