/**
 * Stop wins (I5): what was asked for before it does not begin after it. The core is the real one, all around
 * it is made up.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { startPrimary, stepPrimary } from "../../src/core/primary.ts";
import type { PrimaryEvent, PrimaryState } from "../../src/core/primary-protocol.ts";
import { OrderRefused } from "../../src/guardian/control/refusal.ts";
import { PrimaryOrders } from "../../src/guardian/primary/orders.ts";
import { SETTINGS } from "./core-scenario.ts";

class MadeUp {
  state: PrimaryState = startPrimary(1);
  readonly triesByItself = false;
  readonly orders: PrimaryOrders = new PrimaryOrders(this);
  readonly preflights: PromiseWithResolvers<void>[] = [];

  feed(event: PrimaryEvent): void {
    this.state = stepPrimary(this.state, event, 0, SETTINGS).state;
    this.orders.stepped();
  }

  preflight(): Promise<void> {
    const one = Promise.withResolvers<void>();
    this.preflights.push(one);
    return one.promise;
  }

  kill(): void {}
  wantNoMore(): void {}
}

const stopped = (error: unknown) =>
  error instanceof OrderRefused && error.message === "protection was stopped, as asked, before it had begun";

test("I5: a stop that comes while protect is in its preflight is answered, and the VM is not protected afterwards", async () => {
  const vm = new MadeUp();
  const protect = vm.orders.protect();
  const refused = assert.rejects(protect, stopped);
  await new Promise(setImmediate);
  await vm.orders.stop();
  vm.preflights[0]!.resolve();
  await refused;
  assert.equal(vm.state.phase, "unprotected");
  const again = vm.orders.protect();
  await new Promise(setImmediate);
  vm.preflights[1]!.resolve();
  await new Promise(setImmediate);
  assert.equal(vm.state.phase, "connecting");
  vm.feed({ type: "stop-asked" });
  await assert.rejects(again);
});

test("I5: a stop that comes while protect waits for the end of the protection before stops that one, too", async () => {
  const vm = new MadeUp();
  for (const type of ["protect-asked", "link-up", "stop-asked"] as const) vm.feed({ type });
  assert.equal(vm.state.phase, "ending");
  const refused = assert.rejects(vm.orders.protect(), stopped);
  const stop = vm.orders.stop();
  vm.feed({ type: "capture-ended" });
  await stop;
  await new Promise(setImmediate);
  vm.preflights[0]?.resolve();
  await refused;
  assert.equal(vm.state.phase, "unprotected");
});
