/** When QEMU is said to hang (I4, I5): the watch asks a monitor that is made up here. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { HangWatch } from "../../src/guardian/hang-watch.ts";
import type { QemuProcess } from "../../src/hypervisor/qemu/process.ts";
import { eventually } from "../e2e/lab-session.ts";

const HUNG_MS = 120;

/** A QEMU that answers, refuses, or does nothing. */
class Monitor {
  behaves: "answers" | "refuses" | "hangs" = "answers";
  asked: string[] = [];
  private readonly waiting: (() => void)[] = [];

  executeOob(command: string): Promise<unknown> {
    this.asked.push(command);
    if (this.behaves === "answers") return Promise.resolve([]);
    if (this.behaves === "refuses") return Promise.reject(new Error("not known here"));
    return new Promise((resolve) => this.waiting.push(() => resolve([])));
  }

  wakesUp(): void {
    this.behaves = "answers";
    for (const answer of this.waiting.splice(0)) answer();
  }
}

function watch(t: TestContext) {
  const monitor = new Monitor();
  const hung: string[] = [];
  const alarms: boolean[] = [];
  const log = { info: () => {}, warn: () => {}, error: () => {} };
  const hangs = new HangWatch({
    qemu: { watchdog: monitor } as unknown as QemuProcess,
    hungMs: HUNG_MS,
    who: "the QEMU of the test",
    log: log as never,
    control: { publish: (event) => void alarms.push((event as unknown as { raised: boolean }).raised) },
    onHung: (reason) => void hung.push(reason),
  });
  t.after(() => hangs.close());
  return { monitor, hung, alarms, hangs };
}

test("who answers is well, and so is who refuses; nothing but out-of-band questions is asked", async (t) => {
  const { monitor, hung, alarms } = watch(t);
  await eventually("many questions", () => monitor.asked.length > 20);
  monitor.behaves = "refuses";
  await eventually("many more", () => monitor.asked.length > 40);
  assert.deepEqual([hung, alarms, new Set(monitor.asked)], [[], [], new Set(["query-yank"])]);
});

test("who does not answer hangs after the time, is asked no more meanwhile (I6), and an answer ends it", async (t) => {
  const { monitor, hung, alarms } = watch(t);
  await eventually("an answer", () => monitor.asked.length > 2);
  monitor.behaves = "hangs";
  const asked = monitor.asked.length;
  const began = performance.now();
  await eventually("it is told, again and again", () => hung.length > 2);
  assert.ok(performance.now() - began >= HUNG_MS);
  assert.equal(hung[0], `the QEMU of the test has given no sign of life for ${HUNG_MS} ms`);
  assert.ok(monitor.asked.length <= asked + 1);
  monitor.wakesUp();
  await eventually("it is well", () => alarms.at(-1) === false);
  const told = hung.length;
  await eventually("it is asked again", () => monitor.asked.length > asked + 12);
  assert.equal(hung.length, told);
  assert.deepEqual(alarms, [true, false]);
});

test("closed, it says no more, and an alarm does not stay", async (t) => {
  const { monitor, hung, alarms, hangs } = watch(t);
  monitor.behaves = "hangs";
  await eventually("it is told", () => hung.length > 0);
  hangs.close();
  const told = hung.length;
  await new Promise((over) => setTimeout(over, 2 * HUNG_MS));
  assert.equal(hung.length, told);
  assert.deepEqual(alarms, [true, false]);
});
