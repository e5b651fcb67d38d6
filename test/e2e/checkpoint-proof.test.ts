/**
 * "Nothing is protected that cannot be failed over": checkpoint 0 is loaded into a QEMU of the backup before
 * it is acknowledged. What that cannot take is named, and the VM runs on (I5). What changes later ends the
 * protection, and does not wait for the failover.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { processRuns } from "../../src/lab/lab.ts";
import { goesOn, PATIENT, startWithMonitor } from "./disk-session.ts";
import { eventually, makeLab, phaseOf } from "./lab-session.ts";

test("a device that is plugged in after the handshake is found by loading checkpoint 0, and one beside the protection never gets in (I5)", async (t) => {
  const told: string[] = [];
  const syncing = Promise.withResolvers<void>();
  const lab = await makeLab(t, {
    ...PATIENT,
    retryMs: 60_000,
    // So that a first pass can be got ahead of.
    disks: [{ mebibytes: 12, use: "idle", contents: "random" }],
    syncMiBps: 4,
    onEvent: (host, { kind, phase, text }) => {
      if (host === "a" && text !== undefined) told.push(text);
      if (host === "a" && kind === "phase" && phase === "syncing") syncing.resolve();
    },
  });
  const endsWith = async (why: RegExp) => {
    await eventually(`protection ends: ${why}`, () => told.some((text) => why.test(text)));
    await eventually("protection has ended", async () => (await phaseOf(lab.primary)) === "unprotected");
    told.length = 0;
    await goesOn(client, 5);
  };
  const monitor = await startWithMonitor(t, lab, { cdroms: [{}] });
  const client = lab.client();
  await goesOn(client);
  const qemuPid = await lab.qemuPid("a");

  const protection = assert.rejects(
    lab.protect(),
    /checkpoint 0 does not load here.*Unknown savevm section or instance '0000:[0-9a-f:.]+\/virtio-rng'/,
  );
  await syncing.promise;
  await monitor.execute("device_add", { driver: "virtio-rng-pci", id: "late" });
  await protection;
  await eventually("protection has ended", async () => (await phaseOf(lab.primary)) === "unprotected");
  assert.ok(processRuns(qemuPid));
  assert.equal(await phaseOf(lab.backup), "waiting");
  await goesOn(client, 5);

  // Now the handshake sees it.
  await assert.rejects(
    lab.protect(),
    /The running VM has the device virtio-rng-pci "late" on pci\.0 [0-9a-f.]+, and/,
  );
  const gone = new Promise<void>((resolve) => monitor.on("DEVICE_DELETED", () => resolve()));
  await monitor.execute("device_del", { id: "late" });
  await gone;
  await lab.protect();
  const log = await readFile(join(lab.directory, "b", "guardian.log"), "utf8");
  const [, trialMs] = /checkpoint 0 was loaded on trial, in (\d+) ms/.exec(log)!;
  t.diagnostic(`the trial took ${trialMs} ms`);
  const folder = join(lab.directory, "b", "probe");
  await eventually(
    "nothing is left of the trial",
    () => !existsSync(folder) || readdirSync(folder).length === 0,
  );

  // QEMU itself refuses that while a migration, which COLO is, is under way; and another size, while the disk
  // is replicated.
  await assert.rejects(monitor.execute("device_add", { driver: "virtio-rng-pci", id: "later" }), /migrating/);
  await assert.rejects(monitor.execute("device_del", { id: "nic0" }), /migrating/);
  const resize = monitor.execute("block_resize", { "node-name": "disk0", size: 16 << 20 });
  await assert.rejects(resize, /Permission conflict/);
  assert.equal(await phaseOf(lab.primary), "protected");
  await goesOn(client, 5);

  // What it does not refuse is seen. The next try is refused for the same.
  const disc = join(lab.directory, "disc");
  await writeFile(disc, Buffer.alloc(1 << 20));
  await monitor.execute("blockdev-change-medium", { id: "cdrom0", filename: disc, force: true });
  await endsWith(/drive cdrom0 was "no medium" and is "1048576 bytes, read-only" now/);
  await assert.rejects(lab.protect(), /drive cdrom0 is "1048576 bytes, read-only".*"no medium"/);
  await monitor.execute("blockdev-open-tray", { id: "cdrom0", force: true });
  await monitor.execute("blockdev-remove-medium", { id: "cdrom0" });
  await monitor.execute("blockdev-close-tray", { id: "cdrom0" });
  await lab.protect();
  await monitor.execute("netdev_add", { type: "user", id: "aside", restrict: true });
  await endsWith(/Network backend aside \(user\) is none of vm\.nics/);
  await assert.rejects(lab.protect(), /Network backend aside/);
  await monitor.execute("netdev_del", { id: "aside" });
  await lab.protect();
  assert.ok(processRuns(qemuPid));
  await goesOn(client, 5);
});
