/**
 * The last steps of a takeover, with a monitor that is slow: the only copy of a VM is not given up for that
 * (I5).
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import { runStandby } from "../../src/hypervisor/qemu/standby.ts";

/** It takes `cont`, and its VM runs when RESUME is emitted. */
function monitor() {
  const listeners = new Map<string, () => void>();
  const qmp = {
    on: (event: string, listener: () => void) => void listeners.set(event, listener),
    whyGone: async () => undefined,
    execute: async () => {},
  } as unknown as Qmp;
  return { qmp, emit: (event: string) => listeners.get(event)!() };
}

test("I5: where nobody else has the VM, a standby is waited for as long as its QEMU lives; where somebody has, ten seconds", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval"] });
  const patient = monitor();
  const told: string[] = [];
  let only = true;
  const grace = {
    mayGiveUp: () => !only,
    warn: (text: string) => void told.push(text),
    refused: () => {},
  };
  const runs = runStandby(patient.qmp, grace);
  await new Promise((next) => setImmediate(next));
  t.mock.timers.tick(25_000);
  assert.deepEqual(
    told.map((text) => /waited for/.test(text)),
    [true, true],
  );
  patient.emit("RESUME");
  await runs;

  const hasty = monitor();
  only = false;
  const fails = assert.rejects(runStandby(hasty.qmp), /did not run within 10000 ms/);
  await new Promise((next) => setImmediate(next));
  t.mock.timers.tick(10_000);
  await fails;
});
