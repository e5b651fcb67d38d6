/**
 * What an operator has set in a running QEMU for migrations of another kind. With a real one:
 * test/e2e/preflight.test.ts.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { livePreflight } from "../../src/hypervisor/qemu/live-preflight.ts";
import type { Qmp } from "../../src/hypervisor/qemu/qmp.ts";

/** As a QEMU answers that is well but for these capabilities. */
function monitor(...capabilities: string[]): Qmp {
  const answers: Readonly<Record<string, unknown>> = {
    "query-kvm": { enabled: true },
    "query-migrate-capabilities": capabilities.map((capability) => ({ capability, state: true })),
    "query-migrate": {},
    "query-status": { status: "running" },
    "query-commands": [{ name: "x-colo-lost-heartbeat" }],
    "query-chardev": [],
    "query-block": [],
    "human-monitor-command": "",
  };
  return { version: "9.0.0", execute: async (command: string) => answers[command] ?? [] } as unknown as Qmp;
}

async function found(...capabilities: string[]): Promise<string[]> {
  return (await livePreflight(monitor(...capabilities), process.pid, 0)).map(({ message }) => message);
}

test("a capability that changes the stream is named, with the command that turns it off", async () => {
  for (const name of ["xbzrle", "multifd", "validate-uuid", "x-ignore-shared"]) {
    const [message, ...more] = await found(name);
    assert.deepEqual(more, []);
    assert.match(
      message ?? "",
      new RegExp(`${name} is on, .*cannot read.*migrate_set_capability ${name} off`),
    );
  }
});

test("so is one that would hold up or slow down a VM whose migration never ends (I5)", async () => {
  for (const name of ["pause-before-switchover", "switchover-ack", "auto-converge", "dirty-limit"]) {
    const [message, ...more] = await found(name);
    assert.deepEqual(more, [], name);
    assert.match(
      message ?? "",
      new RegExp(`${name} is on, .*stand still.*migrate_set_capability ${name} off`),
    );
  }
});

test("what Remus sets itself, and what changes nothing, is let pass", async () => {
  assert.deepEqual(await found("events", "x-colo", "return-path", "late-block-activate"), []);
});
