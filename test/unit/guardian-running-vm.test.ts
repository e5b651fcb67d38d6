/** What RunningVm makes of what QEMU tells: its monitor is made up here. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RunningVm } from "../../src/guardian/primary/running-vm.ts";
import { PrimaryStatistics } from "../../src/guardian/primary/statistics.ts";
import type { QemuProcess } from "../../src/hypervisor/qemu/process.ts";

const turn = () => new Promise(setImmediate);

class Monitor {
  status: string | undefined = "running";
  private readonly listeners = new Map<string, (data: unknown, us: number) => void>();

  on(event: string, listener: (data: unknown, us: number) => void): () => void {
    this.listeners.set(event, listener);
    return () => {};
  }

  say(event: string, data: unknown = {}): void {
    this.listeners.get(event)!(data, 0);
  }

  /** What it answers is decided as it is asked, and comes a turn later. */
  async execute(): Promise<unknown> {
    const { status } = this;
    await turn();
    if (status === undefined) throw new Error("the monitor is closed");
    return { status, running: status === "running" };
  }
}

function made() {
  const qmp = new Monitor();
  const ended: string[] = [];
  const vm = new RunningVm({ qmp } as unknown as QemuProcess, {
    statistics: new PrimaryStatistics(),
    onStandstill: () => {},
    onEnded: (how) => ended.push(how),
  });
  return { qmp, vm, ended };
}

test("I5: a guest that ends inside a checkpoint's pause does not run when that pause is over: nobody asks for a checkpoint without end", async () => {
  const { qmp, vm, ended } = made();
  assert.equal(await vm.mayBePaused(), true);
  qmp.say("STOP");
  qmp.say("SHUTDOWN", { guest: true, reason: "guest-shutdown" });
  qmp.say("RESUME");
  assert.deepEqual(ended, ["the guest has shut down"]);
  assert.equal(await vm.mayBePaused(), false);
  let wishes = 0;
  vm.whenRunning(() => wishes++);
  qmp.say("STOP");
  qmp.say("RESUME");
  await turn();
  assert.equal(wishes, 0);
});

test("I5: where QEMU says that the VM does not run, and no event has said so, whoever waits for it waits", async () => {
  const { qmp, vm } = made();
  qmp.status = "paused";
  const asking = vm.mayBePaused();
  assert.equal(await asking, false);
  let wishes = 0;
  vm.whenRunning(() => wishes++);
  await turn();
  await turn();
  assert.deepEqual([wishes, vm.standstill?.state], [0, "paused"]);
  qmp.status = "running";
  qmp.say("RESUME");
  assert.deepEqual([wishes, vm.standstill], [1, undefined]);
});

test("a QEMU that goes while it is asked why its VM does not run is no error of the guardian's own", async (t) => {
  const { qmp, vm } = made();
  const unhandled: unknown[] = [];
  const note = (reason: unknown) => unhandled.push(reason);
  process.on("unhandledRejection", note);
  t.after(() => process.off("unhandledRejection", note));
  qmp.status = "paused";
  const asking = vm.mayBePaused();
  qmp.status = undefined;
  assert.equal(await asking, false);
  await turn();
  await turn();
  assert.deepEqual(unhandled, []);
});
