// The order `resume`: what stands still by itself or by its operator runs on, and nothing else is touched.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import type { PrimaryState } from "../../src/core/primary-protocol.ts";
import { OrderRefused } from "../../src/guardian/control/refusal.ts";
import { PrimaryOrders } from "../../src/guardian/primary/orders.ts";
import { RunningVm } from "../../src/guardian/primary/running-vm.ts";
import type { PrimaryStatistics } from "../../src/guardian/primary/statistics.ts";
import type { QemuProcess } from "../../src/hypervisor/qemu/process.ts";

function guarded(status: string, phase: PrimaryState["phase"] = "unprotected") {
  const events = new EventEmitter();
  const conts: string[] = [];
  const qmp = {
    on: (event: string, listener: () => void) => events.on(event, listener),
    execute: async (command: string) => {
      if (command === "query-status") return { status, running: status === "running" };
      conts.push(command);
      return {};
    },
  };
  const vm = new RunningVm({ qmp } as unknown as QemuProcess, {
    statistics: { paused() {}, resumed() {} } as unknown as PrimaryStatistics,
    onStandstill: () => {},
    onEnded: () => {},
  });
  const orders = new PrimaryOrders({
    state: { phase } as PrimaryState,
    feed: () => {},
    preflight: async () => {},
    kill: () => {},
    wantNoMore: () => {},
    triesByItself: false,
  });
  return { conts, resume: () => orders.resume(vm) };
}

test("`resume` lets a VM run on that its operator, its disk, its watchdog or a debugger has stopped", async () => {
  for (const status of ["paused", "io-error", "watchdog", "debug"]) {
    const { conts, resume } = guarded(status);
    await resume();
    assert.deepEqual(conts, ["cont"], status);
  }
});

test("I4, I5: `resume` touches no VM that runs, is in a pause of ours, has ended, sleeps, cannot run, or is the backup's", async () => {
  const refused = async (phrase: RegExp, ...of: Parameters<typeof guarded>) => {
    const { conts, resume } = guarded(...of);
    await assert.rejects(
      resume,
      (error) => error instanceof OrderRefused && error.code === "wrong-state" && phrase.test(error.message),
    );
    assert.deepEqual(conts, []);
  };
  await refused(/does not stand still/, "running");
  await refused(/does not stand still/, "colo", "protected");
  await refused(/has ended/, "shutdown");
  await refused(/has ended/, "guest-panicked");
  await refused(/system_wakeup/, "suspended");
  await refused(/cannot run the VM on/, "internal-error");
  await refused(/belongs to the backup/, "io-error", "handing-over");
  await refused(/belongs to the backup/, "paused", "superseded");
});
