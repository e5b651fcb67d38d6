/**
 * I4, I7 and output commit over KVM, whose device state and dirty log are others than those of software
 * emulation: the VM is given from host to host and back, and then its host loses power. The guest is an
 * option ROM that answers Ethernet frames (guest/echo.S): there are machines whose KVM runs that and no
 * Linux.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { tryFirmware } from "../../src/hypervisor/qemu/accelerator.ts";
import { assertRamEqual, assertUnharmed, GRACE_MS, protectedLab } from "./lab-session.ts";

test("over KVM a switchover there and back, then a power failure: nothing is lost, nothing goes back, RAM was equal (I4, I7)", async (t) => {
  const firmware = await tryFirmware({ accelerator: "kvm" });
  if (!firmware.up) {
    t.skip(`KVM does not run firmware here: ${firmware.why}`);
    return;
  }
  const { lab, client } = await protectedLab(t, { guest: "echo", accelerator: "kvm", retryMs: 100 });
  const { accelerator } = await lab.primary.control.primaryStatus();
  assert.equal(accelerator, "kvm");
  for (const owner of ["b", "a"]) {
    await assertRamEqual(lab);
    await lab.switchover();
    assert.equal(lab.owner, owner);
    await client.answers(20, GRACE_MS);
    await lab.untilProtected();
  }
  await assertRamEqual(lab, 2);
  await lab.kill("power");
  await lab.failedOver();
  await client.answers(50, GRACE_MS);
  await assertUnharmed(client);
});
