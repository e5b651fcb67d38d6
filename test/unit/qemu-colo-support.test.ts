/**
 * A QEMU without replication lists the capability x-colo all the same: found out before anything is touched
 * (I5).
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { hasColo } from "../../src/hypervisor/qemu/colo-support.ts";
import { type Qmp, QmpClosed, QmpError } from "../../src/hypervisor/qemu/qmp.ts";

/** Answers as a QEMU of that version does. */
function fake(version: string, qemu: { command: boolean; refusal?: Error; state?: boolean }) {
  const sets: unknown[] = [];
  const execute = async (command: string, args?: { capabilities: { state: boolean }[] }) => {
    switch (command) {
      case "query-commands":
        return [{ name: "query-status" }, ...(qemu.command ? [{ name: "x-colo-lost-heartbeat" }] : [])];
      case "query-migrate-capabilities":
        return [{ capability: "x-colo", state: qemu.state === true }];
      default:
        sets.push(args!.capabilities);
        if (qemu.refusal !== undefined && args!.capabilities[0]!.state) throw qemu.refusal;
        return {};
    }
  };
  return { qmp: { version, execute } as unknown as Qmp, sets };
}

const on = [{ capability: "x-colo", state: true }];
const off = [{ capability: "x-colo", state: false }];
const refused = (text: string) => new QmpError("migrate-set-capabilities", "GenericError", text);
const withoutModule = refused("QEMU compiled without replication module can't enable COLO");

test("from 8.1 on the command x-colo-lost-heartbeat goes with the module: nothing is tried", async () => {
  for (const version of ["8.1.0", "10.1.0", "11.1.3"])
    for (const command of [true, false]) {
      const { qmp, sets } = fake(version, { command });
      assert.equal(await hasColo(qmp), command, version);
      assert.deepEqual(sets, []);
    }
});

test("before 8.1 the capability is tried, and taken back", async () => {
  const well = fake("7.2.22", { command: true });
  assert.equal(await hasColo(well.qmp), true);
  assert.deepEqual(well.sets, [on, off]);
  const rhel = fake("8.0.0", { command: true, refusal: withoutModule });
  assert.equal(await hasColo(rhel.qmp), false);
  assert.deepEqual(rhel.sets, [on]);
});

test("what is on is left on, and a migration that is under way is no sign that COLO is missing", async () => {
  const already = fake("7.2.22", { command: true, state: true });
  assert.equal(await hasColo(already.qmp), true);
  assert.deepEqual(already.sets, []);
  const busy = fake("7.2.22", { command: true, refusal: refused("There's a migration process in progress") });
  assert.equal(await hasColo(busy.qmp), true);
});

test("a QEMU that goes away is no QEMU without COLO", async () => {
  const { qmp } = fake("7.2.22", { command: true, refusal: new QmpClosed("QEMU closed it") });
  await assert.rejects(hasColo(qmp), QmpClosed);
});
