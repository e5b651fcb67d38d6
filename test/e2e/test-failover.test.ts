/**
 * A test failover: a clone of the VM is tried out on the backup's host and dropped, and neither the VM nor
 * its protection notices.
 */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { NbdClient } from "../../src/disk/nbd-client.ts";
import type { RunningClone } from "../../src/guardian/control/orders.ts";
import { countIncrements } from "../../src/lab/append-only-file.ts";
import { checkFileSystem } from "../../src/lab/file-system.ts";
import { diskLoadCommand } from "../../src/lab/guest-image.ts";
import { guestAddresses, type Lab, processRuns } from "../../src/lab/lab.ts";
import { assertHostsEqual, goesOn } from "./disk-session.ts";
import { assertUnharmed, eventually, GRACE_MS, makeLab } from "./lab-session.ts";

const run = promisify(execFile);

const order = (lab: Lab, action: "start" | "status" | "stop") =>
  lab.backup.control.order("test-failover", { action });

/** The clone, which runs. */
async function clone(lab: Lab, action: "start" | "status"): Promise<RunningClone> {
  const status = await order(lab, action);
  assert.equal(status.state, "running");
  return status;
}

/** A command in the clone's network. */
async function beside({ network }: RunningClone, ...words: readonly string[]): Promise<string> {
  const { stdout } = await run("nsenter", [`--net=${network}`, "--", ...words]);
  return stdout.trim();
}

const redisOf = (clone: RunningClone, ...words: readonly string[]) =>
  beside(clone, "redis-cli", "-h", guestAddresses[0].ipv4, ...words);

/** Disk 0 as the clone found it. */
async function diskAsItWas(t: TestContext, clone: RunningClone): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "remus-clone-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const client = await NbdClient.connect({
    path: join(clone.qmp, "../disks.sock"),
    exportName: "disk0",
  });
  const file = join(folder, "disk0");
  await writeFile(file, await client.read(0, client.bytes));
  await client.disconnect();
  return file;
}

/** Host B has nothing of a clone any more: no process, and no file. */
async function assertNoTrace(lab: Lab, { pid }: RunningClone): Promise<void> {
  await eventually("the clone is gone", () => !processRuns(pid), 2_000);
  const folders = [
    join(lab.directory, "b"),
    join(lab.directory, "b", "image"),
    lab.disks.stateDirectory("b"),
  ];
  const left = () => folders.flatMap((folder) => (existsSync(folder) ? readdirSync(folder) : []));
  await eventually("its files are gone", () => !left().some((name) => /(^|\.)test(\.|$)/.test(name)), 2_000);
}

test("a clone has what a client saw, can be written to, reaches nobody, and leaves nothing; a failover does not wait for it", async (t) => {
  const lab = await makeLab(t, {
    disks: [
      { mebibytes: 32, use: "data" },
      { mebibytes: 16.7, use: "load", format: "qcow2", contents: "random" },
    ],
    detectionMs: 400,
  });
  await lab.start();
  const client = lab.client();
  await client.answers(20, GRACE_MS);
  await assert.rejects(order(lab, "start"), { code: "wrong-state", message: /the backup is waiting/ });
  await assert.rejects(lab.backup.control.ask("test-failover", { action: "begin" }), { code: "bad-request" });
  await lab.protect();
  await goesOn(client);

  const seenBefore = client.progress!.highest;
  const [made, second] = await Promise.allSettled([clone(lab, "start"), clone(lab, "start")]);
  assert.equal(second.status === "rejected" && second.reason.code, "already-running");
  if (made.status === "rejected") throw made.reason;
  const first = made.value;
  assert.deepEqual([first.state, first.guest], ["running", "running"]);
  await goesOn(client, 1);
  const seenAfter = client.progress!.requests;

  // Its network is its taps, and who looks at it from there.
  const links = JSON.parse(await beside(first, "ip", "-j", "link")) as { ifname: string }[];
  assert.deepEqual(
    links.map(({ ifname }) => ifname).sort(),
    ["lo", "tap0"].sort(),
    "the clone's network has no way out",
  );
  await beside(first, "ip", "addr", "add", "10.77.0.99/24", "dev", "tap0");
  const counter = Number(await redisOf(first, "GET", "counter"));
  assert.ok(counter >= seenBefore && counter <= seenAfter, `${seenBefore} <= ${counter} <= ${seenAfter}`);

  // It writes to its RAM and both disks, while the VM does, too.
  assert.equal(await redisOf(first, "SET", "of-the-clone", "1"), "OK");
  assert.equal(await redisOf(first, ...diskLoadCommand(lab.disks.inGuest.load)), "1");
  await goesOn(client, 40);
  await assertHostsEqual(lab);
  assert.equal(await lab.redis("GET", "of-the-clone"), "");
  assert.equal(await redisOf(first, "INCR", "of-the-clone"), "2");

  // What it found on its disk is what belongs to its RAM, although the image has changed since.
  const found = await clone(lab, "status");
  assert.ok(found.keptBytes > 0, "commits went on, and what they overwrote was kept");
  let increments = 0;
  const { clean, complaint } = await checkFileSystem(await diskAsItWas(t, first), {
    read: async (files) => {
      increments = await countIncrements((name) => files.read(`/appendonlydir/${name}`), "counter");
    },
  });
  assert.ok(clean, complaint);
  assert.ok(
    increments >= seenBefore && increments <= counter + 1,
    `${increments} increments, ${counter} in RAM`,
  );

  await order(lab, "stop");
  assert.ok(!processRuns(first.pid));
  await assertNoTrace(lab, first);
  assert.deepEqual(await order(lab, "status"), { state: "none", lastEnd: "as asked" });
  await order(lab, "stop");
  await goesOn(client);

  const other = await clone(lab, "start");
  assert.ok(other.checkpoint > first.checkpoint);
  await goesOn(client);
  await lab.kill("power");
  await lab.failedOver();
  await assertNoTrace(lab, other);
  await goesOn(client);
  await assertUnharmed(client);
  assert.match(
    await readFile(lab.primary.logFile, "utf8"),
    /the test failover's clone is dropped: the backup is arbitrating/,
  );
});
