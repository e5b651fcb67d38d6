/**
 * Both hosts fail, and the one that ran the VM last is lost for good. By itself the other does nothing (I2);
 * an operator who says that the VM runs nowhere has it started there.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { PATIENT } from "./disk-session.ts";
import { assertUnharmed, eventually, GRACE_MS, phaseOf, protectedLab, roleOf } from "./lab-session.ts";

test("the VM is started from the copy that is left, when that is asked for in full; its host is protected again", async (t) => {
  const { lab, client } = await protectedLab(t, {
    ...PATIENT,
    retryMs: 500,
    disks: [{ mebibytes: 64, use: "data" }],
  });
  const armed = lab.backup.control.order("start-here", { runsNowhereElse: true, evenFromCopy: true });
  await assert.rejects(armed, { code: "wrong-state", message: /this backup is armed/ });
  const { highest } = await assertUnharmed(client);
  await eventually("everything is committed", async () => {
    const { acked, committed } = await lab.backup.control.backupStatus();
    return acked === committed;
  });
  await lab.backup.control.order("flush-disks");
  await Promise.all([lab.kill("power", "a"), lab.kill("power", "b")]);

  const { control } = await lab.returnHost();
  await eventually("host B waits", async () => (await phaseOf({ control })) === "waiting");
  const order = (args: Record<string, unknown>) => control.order("start-here", args);
  await assert.rejects(order({}), { code: "not-confirmed", message: /say "runsNowhereElse": true/ });
  await assert.rejects(order({ runsNowhereElse: true }), { code: "not-confirmed", message: /a copy of the/ });
  await assert.rejects(order({ force: true }), { code: "bad-request", message: /no argument "force"/ });
  assert.equal(await phaseOf({ control }), "waiting");
  const { generation } = await order({ runsNowhereElse: true, evenFromCopy: true });
  assert.equal(generation, 2);

  lab.owner = "b";
  await eventually("host B is the primary", async () => (await roleOf({ control })) === "primary");
  await lab.guestReady();
  assert.equal(Number(await lab.redis("GET", "counter")), highest);
  await lab.returnHost();
  await lab.untilProtected();
  const second = lab.client(undefined, "second");
  await second.answers(20, GRACE_MS);
  await assertUnharmed(second);
});
