/**
 * I4: after the loss of a host, of QEMU or of a guardian, the VM runs on, and nothing that a client saw is
 * taken back.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { guestAddresses, processRuns } from "../../src/lab/lab.ts";
import { assertRamEqual, assertUnharmed, eventually, GRACE_MS, protectedLab } from "./lab-session.ts";
import { isFrom, machineTypes } from "./machine-types.ts";

test("one host after the other fails under load, by power, QEMU, guardian: one TCP connection goes on, RAM was equal (I4, I7)", async (t) => {
  const { lab, client } = await protectedLab(t, { load: "busy", retryMs: 500 });
  for (const kill of ["power", "qemu", "guardian"] as const) {
    await assertRamEqual(lab, 2);
    await client.answers(20, GRACE_MS);
    const dead = lab.primary;
    const qemuPid = await lab.qemuPid(lab.owner);
    await lab.kill(kill);
    await lab.failedOver();
    await client.answers(50, GRACE_MS);
    await eventually("QEMU and guardian are both gone", () => !dead.alive && !processRuns(qemuPid));
    if (kill === "guardian") break;
    await lab.returnHost();
    await lab.untilProtected();
  }
  await assertUnharmed(client);
});

test("2 vCPUs, q35, 512 MiB, two NICs, clients over IPv4 and IPv6 on different NICs", async (t) => {
  const { lab, client } = await protectedLab(t, {
    vcpus: 2,
    machine: "q35",
    memoryMiB: 512,
    nics: 2,
    virtio: "standard",
    load: "busy",
    // To look at all of it keeps a small machine from its heartbeats.
    detectionMs: 1000,
  });
  const second = lab.client(guestAddresses[1].ipv6, "second");
  await second.answers(20, GRACE_MS);
  await assertRamEqual(lab, 3);
  await lab.kill("power");
  await Promise.all([client.answers(50, GRACE_MS), second.answers(50, GRACE_MS)]);
  await assertUnharmed(client);
  await assertUnharmed(second);
});

test("the oldest machine types that this QEMU has, from 2.12 on (I4, I7)", async (t) => {
  for (const family of ["pc-i440fx", "pc-q35"] as const) {
    const machine = machineTypes(family).find((name) => isFrom(name, "2.12"));
    assert.ok(machine !== undefined, `a machine type ${family}`);
    await t.test(machine, async (t) => {
      const { lab, client } = await protectedLab(t, { machine, retryMs: 500 });
      await assertRamEqual(lab, 2);
      await lab.kill("power");
      await lab.failedOver();
      await client.answers(50, GRACE_MS);
      await assertUnharmed(client);
    });
  }
});
