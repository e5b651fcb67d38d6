/**
 * A QEMU that is there and does nothing: while its guardian is well and beats, the backup cannot know. The VM
 * goes on there all the same (I4), but one that nobody else has is left alone (I5); and a standby that hangs
 * is replaced before it is needed.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { HeardEvent } from "../../src/guardian/control/events.ts";
import { processRuns } from "../../src/lab/lab.ts";
import { assertUnharmed, eventually, GRACE_MS, makeLab } from "./lab-session.ts";

const HUNG_MS = 1000;

test("QEMU stands still: unprotected, then a standby, then with a backup that can go on; no process has ended", async (t) => {
  const alarms: string[] = [];
  const onEvent = (host: string, { kind, about, raised }: HeardEvent) => {
    if (kind === "alarm" && about === "hypervisor") alarms.push(`${host} ${raised ? "hangs" : "is well"}`);
  };
  const lab = await makeLab(t, { detectionMs: 300, hungMs: HUNG_MS, retryMs: 500, onEvent });
  const heard = (alarm: string) => eventually(alarm, () => alarms.at(-1) === alarm);
  await lab.start();
  const client = lab.client();
  const goesOn = () => client.answers(20, GRACE_MS);
  await goesOn();
  const qemuPid = await lab.qemuPid("a");

  process.kill(qemuPid, "SIGSTOP");
  await heard("a hangs");
  process.kill(qemuPid, "SIGCONT");
  await heard("a is well");
  await goesOn();
  await lab.protect();
  await goesOn();

  const standby = await lab.qemuPid("b");
  process.kill(standby, "SIGSTOP");
  await eventually("the standby is ended", () => !processRuns(standby));
  await eventually("another one takes its place", async () => {
    // It has none while it becomes a backup again.
    const now = await lab.qemuPid("b").catch(() => standby);
    return now !== standby;
  });
  await lab.untilProtected();
  await goesOn();
  assert.equal(lab.owner, "a");
  assert.equal(await lab.qemuPid("a"), qemuPid, "the VM was none the worse for it");

  process.kill(qemuPid, "SIGSTOP");
  await lab.failedOver();
  await goesOn();
  assert.equal(await lab.guardianOf("a").exited, 1);
  assert.ok(!processRuns(qemuPid));
  await assertUnharmed(client);
});
