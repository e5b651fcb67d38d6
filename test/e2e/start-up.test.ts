/**
 * A host that was out of reach, or failed and is started again with the file that it always had, finds out
 * what it is now: it never runs a copy that is not the VM (I3), and the VM is protected again without an
 * order (I4).
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { assertRamEqual, assertUnharmed, GRACE_MS, protectedLab, roleOf } from "./lab-session.ts";

test("A is cut off, B takes over; B loses power, A takes over; then both are gone at once. Nobody gives an order", async (t) => {
  const { lab, client } = await protectedLab(t, { detectionMs: 300, retryMs: 500 });
  const goesOn = () => client.answers(20, GRACE_MS);
  const protectedAgain = async () => {
    await lab.untilProtected();
    assert.equal(await roleOf(lab.backup), "backup");
  };

  await lab.cut("link");
  await lab.cut("witness", "a");
  await lab.failedOver();
  await goesOn();
  await lab.mend("witness", "a");
  await lab.mend("link");
  await protectedAgain();
  await goesOn();

  await lab.kill("power");
  await lab.failedOver();
  await goesOn();
  await lab.returnHost();
  await protectedAgain();
  await goesOn();
  await assertRamEqual(lab);
  await assertUnharmed(client);

  // B knows that its copy is none. A had the VM, and for all that it knows B may have a checkpoint of it: the
  // witness tells that it has not taken it.
  await lab.kill("processes", "b");
  await lab.kill("processes", "a");
  await Promise.all([lab.returnOwner(), lab.returnHost()]);
  assert.equal(await roleOf(lab.primary), "primary");
  await protectedAgain();
});
