/** When QEMU is said to hang (I4, I5): the watch asks a monitor that is made up here. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { HangWatch } from "../../src/guardian/watch/hang-watch.ts";
import type { QemuProcess } from "../../src/hypervisor/qemu/process.ts";
import { QmpClosed } from "../../src/hypervisor/qemu/qmp.ts";
import { eventually } from "../e2e/lab-session.ts";

const HUNG_MS = 120;

/** A QEMU that answers, refuses, or does nothing. */
class Monitor {
  behaves: "answers" | "refuses" | "hangs" | "is closed" = "answers";
  takesOob = true;
  /** Of the process. */
  state: string | undefined = "S";
  asked: string[] = [];
  private readonly waiting: (() => void)[] = [];

  executeOob(command: string): Promise<unknown> {
    this.asked.push(command);
    if (this.behaves === "answers") return Promise.resolve([]);
    if (this.behaves === "refuses") return Promise.reject(new Error("not known here"));
    if (this.behaves === "is closed") return Promise.reject(new QmpClosed("QEMU closed it"));
    return new Promise((resolve) => this.waiting.push(() => resolve([])));
  }

  wakesUp(): void {
    this.behaves = "answers";
    for (const answer of this.waiting.splice(0)) answer();
  }
}

function watch(t: TestContext, takesOob = true) {
  const monitor = new Monitor();
  monitor.takesOob = takesOob;
  const warnings: string[] = [];
  const hung: string[] = [];
  const alarms: boolean[] = [];
  const looks = { count: 0 };
  const log = { info: () => {}, warn: (text: string) => void warnings.push(text), error: () => {} };
  const hangs = new HangWatch({
    qemu: {
      watchdog: monitor,
      get processState() {
        looks.count++;
        return monitor.state;
      },
    } as unknown as QemuProcess,
    hungMs: HUNG_MS,
    who: "the QEMU of the test",
    log: log as never,
    control: { publish: (event) => void alarms.push((event as unknown as { raised: boolean }).raised) },
    onHung: (reason) => void hung.push(reason),
  });
  t.after(() => hangs.close());
  return { monitor, hung, alarms, hangs, looks, warnings };
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

/** Long enough for whoever takes silence for a hang to do so. */
const passes = (looks: { count: number }) => {
  const { count } = looks;
  return eventually("many looks", () => looks.count > count + 25);
};

test("I5: a QEMU without out-of-band commands is not asked, hangs only while its process is stopped, and that is said once", async (t) => {
  const { monitor, hung, alarms, looks, warnings } = watch(t, false);
  for (const state of ["S", "R", "D"]) {
    monitor.state = state;
    await passes(looks);
  }
  assert.deepEqual([monitor.asked, hung, alarms], [[], [], []]);
  assert.deepEqual(warnings, [
    "the QEMU of the test takes no commands out of band on its monitor: it is taken to hang only while its process is stopped, not when its threads are stuck",
  ]);
  for (const state of ["T", "t"]) {
    monitor.state = state;
    await eventually("it hangs", () => alarms.at(-1) === true && hung.length > 0);
    monitor.state = "S";
    await eventually("it is well", () => alarms.at(-1) === false);
  }
  assert.equal(warnings.length, 1);
});

test("I4: a monitor that is lost is no sign of life: a process that stands still is found out all the same", async (t) => {
  const { monitor, hung, alarms, looks, warnings } = watch(t);
  await eventually("an answer", () => monitor.asked.length > 2);
  monitor.behaves = "is closed";
  await passes(looks);
  assert.deepEqual([hung, alarms], [[], []]);
  assert.match(warnings.join(), /cannot be asked out of band any more \(.*QEMU closed it\): /);
  monitor.state = "T";
  await eventually("it hangs", () => hung.length > 2);
  assert.deepEqual(alarms, [true]);
});

test("a monitor that goes with its process is not spoken of, and that process does not hang", async (t) => {
  const { monitor, hung, alarms, looks, warnings } = watch(t);
  for (const state of ["Z", undefined]) {
    monitor.behaves = "is closed";
    monitor.state = state;
    await passes(looks);
  }
  assert.deepEqual([hung, alarms, warnings], [[], [], []]);
});
