// A guardian's loop: events are taken one at a time, and an effect that fails, whichever and in whatever
// phase, at once or later, has the remedy of core/effect-failures.ts and no other.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import {
  type BackupEffect,
  type BackupEvent,
  type BackupState,
  startBackup,
  stepBackup,
} from "../../src/core/backup.ts";
import { backupRemedy, primaryRemedy } from "../../src/core/effect-failures.ts";
import { startPrimary, stepPrimary } from "../../src/core/primary.ts";
import type { PrimaryEffect, PrimaryEvent, PrimaryState } from "../../src/core/primary-protocol.ts";
import { InvariantBroken } from "../../src/core/transition.ts";
import { BackupFailures } from "../../src/guardian/backup/failures.ts";
import { EventLoop, type Machine } from "../../src/guardian/event-loop.ts";
import { PrimaryFailures } from "../../src/guardian/primary/failures.ts";
import { SETTINGS } from "./core-scenario.ts";

type How = "at once" | "later" | "invariant";

/** What a guardian did, in order: effects carried out, and remedies. */
class Diary {
  readonly lines: string[] = [];
  readonly alarms = new Set<string>();
  readonly log = { info: () => {}, warn: () => {}, error: () => {} };
  readonly control = {
    publish: (event: Readonly<Record<string, unknown>>) => {
      if (event.kind !== "alarm") return;
      if (event.raised === true) this.alarms.add(String(event.about));
      else this.alarms.delete(String(event.about));
    },
  };
  /** The effect that fails once, and how. */
  failing: { readonly type: string; readonly how: How } | undefined;

  carryOut(effect: { readonly type: string }): void | Promise<void> {
    const { failing } = this;
    if (failing?.type === effect.type) {
      this.failing = undefined;
      const error =
        failing.how === "invariant" ? new InvariantBroken("I1", "for a test") : new Error("for a test");
      if (failing.how === "later") return Promise.reject(error);
      throw error;
    }
    this.lines.push(effect.type);
  }
}

function primary(diary: Diary): EventLoop<PrimaryState, PrimaryEvent, PrimaryEffect> {
  const failures = new PrimaryFailures({
    log: diary.log,
    control: diary.control,
    state: () => loop.state,
    partFailed: (type, reason) => {
      diary.lines.push(`remedy ${type}`);
      loop.feed({ type, reason });
    },
    loseLink: (reason) => {
      diary.lines.push("remedy link-lost");
      loop.feed({ type: "link-lost", reason });
    },
    kill: () => diary.lines.push("remedy kill-vm"),
  });
  let now = 0;
  const loop = new EventLoop<PrimaryState, PrimaryEvent, PrimaryEffect>(startPrimary(1), {
    step: (state, event) => {
      now += 2 * SETTINGS.intervalMs;
      return stepPrimary(state, event, now, SETTINGS);
    },
    carryOut: (effect) => diary.carryOut(effect),
    stepped: () => {},
    failed: (what, error) => failures.failed(what, error),
  });
  return loop;
}

function backup(diary: Diary): EventLoop<BackupState, BackupEvent, BackupEffect> {
  const failures = new BackupFailures({
    log: diary.log,
    control: diary.control,
    state: () => loop.state,
    feed: (event) => {
      diary.lines.push(`remedy ${event.type}`);
      loop.feed(event);
    },
    loseLink: (reason) => {
      diary.lines.push("remedy primary-lost");
      loop.feed({ type: "primary-lost", reason });
    },
    beginAnew: () => diary.lines.push("remedy begin-anew"),
  });
  const loop = new EventLoop<BackupState, BackupEvent, BackupEffect>(startBackup(1), {
    step: stepBackup,
    carryOut: (effect) => diary.carryOut(effect),
    stepped: () => {},
    failed: (what, error) => failures.failed(what, error),
  });
  return loop;
}

const reason = "for a test";
const toProtected: PrimaryEvent[] = [
  { type: "protect-asked" },
  { type: "link-up" },
  { type: "first-pass-done" },
  { type: "acked", epoch: 0 },
];
const checkpoint = (epoch: number): PrimaryEvent[] => [
  { type: "requested" },
  { type: "captured", epoch, bytes: 4096 },
  { type: "sent", epoch },
  { type: "acked", epoch },
];
const granted: PrimaryEvent = { type: "verdict", granted: true, generation: 2 };
/** Lives of a primary that between them have every effect in every phase in which it is ordered. */
const PRIMARY_LIVES: readonly PrimaryEvent[][] = [
  [{ type: "protect-asked" }, { type: "stop-asked" }],
  [{ type: "protect-asked" }, { type: "link-lost", reason }],
  [{ type: "protect-asked" }, { type: "link-up" }, { type: "stop-asked" }, { type: "capture-ended" }],
  [
    ...toProtected,
    ...checkpoint(1),
    { type: "stop-asked" },
    { type: "goodbye-ok" },
    { type: "capture-ended" },
  ],
  [...toProtected, { type: "link-lost", reason }, granted, { type: "capture-ended" }],
  [...toProtected, { type: "link-lost", reason }, { type: "verdict", granted: false, generation: 2 }],
  [...toProtected, { type: "hypervisor-hung", reason }],
  [
    ...toProtected,
    { type: "switchover-asked" },
    ...checkpoint(1),
    { type: "handover-refused", reason, stoodDown: true, generation: 2 },
    { type: "capture-ended" },
  ],
  [...toProtected, { type: "switchover-asked" }, ...checkpoint(1), { type: "link-lost", reason }, granted],
  [...toProtected, { type: "hold-asked", atEpoch: 0 }, ...checkpoint(1), { type: "proceed-asked" }],
  [...toProtected, { type: "hold-asked", atEpoch: 0 }, ...checkpoint(1), { type: "stop-asked" }],
  [...toProtected, { type: "requested" }, { type: "stop-asked" }, { type: "link-lost", reason }, granted],
];
const toArmed: BackupEvent[] = [
  { type: "session-opened", generation: 1 },
  { type: "checkpoint-whole", epoch: 0 },
  { type: "committed", epoch: 0 },
];
const won: BackupEvent = { type: "verdict", granted: true, generation: 2 };
const BACKUP_LIVES: readonly BackupEvent[][] = [
  [
    { type: "session-opened", generation: 1 },
    { type: "primary-lost", reason },
  ],
  [{ type: "session-opened", generation: 1 }, { type: "handover-asked", epoch: 0 }, { type: "goodbye" }],
  [...toArmed, { type: "goodbye" }],
  [...toArmed, { type: "commit-failed", reason }],
  [...toArmed, { type: "handover-asked", epoch: 7 }],
  [...toArmed, { type: "primary-lost", reason }, won, { type: "standby-runs" }],
  [...toArmed, { type: "primary-lost", reason }, { type: "verdict", granted: false, generation: 2 }],
  [...toArmed, { type: "handover-asked", epoch: 0 }, won, { type: "standby-runs" }],
  [...toArmed, { type: "handover-asked", epoch: 0 }, { type: "handover-expired" }],
];

interface Point {
  readonly life: number;
  readonly type: string;
  /** How many of its kind were carried out before. */
  readonly nth: number;
}

/** Plays each life once for each effect in it, with that one failing. */
async function play<E>(
  lives: readonly (readonly E[])[],
  how: How,
  begin: (diary: Diary) => { feed(event: E): void; state: { phase: string } },
  judge: (diary: Diary, point: Point, phase: string, remedy: string | undefined) => Promise<void>,
): Promise<number> {
  let points = 0;
  for (const [life, events] of lives.entries()) {
    const well = new Diary();
    const loop = begin(well);
    for (const event of events) loop.feed(event);
    const seen = new Map<string, number>();
    for (const type of well.lines) {
      const nth = seen.get(type) ?? 0;
      seen.set(type, nth + 1);
      points++;
      const diary = new Diary();
      const one = begin(diary);
      let left = nth;
      const carry = diary.carryOut.bind(diary);
      diary.carryOut = (effect) => {
        if (effect.type === type && left-- === 0) diary.failing = { type, how };
        return carry(effect);
      };
      for (const event of events) {
        one.feed(event);
        await Promise.resolve();
        await Promise.resolve();
        if (left < 0) break;
      }
      assert.ok(left < 0, `life ${life}: ${type} ${nth} was not reached`);
      const remedy = diary.lines.find((line) => line.startsWith("remedy"))?.slice(7);
      await judge(diary, { life, type, nth }, one.state.phase, remedy);
    }
  }
  return points;
}

/** Lets the tries that follow be made, until no alarm stands. */
async function untilQuiet(diary: Diary): Promise<void> {
  for (let tries = 0; diary.alarms.size > 0; tries++) {
    assert.ok(tries < 100, "an alarm stands for ever");
    mock.timers.tick(10_000);
    for (let turn = 0; turn < 5; turn++) await Promise.resolve();
  }
}

beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
afterEach(() => mock.timers.reset());

for (const how of ["at once", "later", "invariant"] as const)
  test(`I5: no effect of a primary that fails ${how} ends a VM that nobody else has`, async () => {
    const points = await play(PRIMARY_LIVES, how, primary, async (diary, { life, type }, phase, remedy) => {
      const what = `life ${life}, ${type}, then ${phase}`;
      if (remedy === "kill-vm") assert.ok(how === "invariant" && phase === "protected", what);
      // Whatever is to be tried again is, until it is done.
      const states: PrimaryState["phase"][] = ["ending", "arbitrating", "unprotected", "superseded"];
      const wanted = states.includes(phase as PrimaryState["phase"]);
      if (how !== "invariant" && remedy === undefined && wanted && diary.alarms.size > 0) {
        await untilQuiet(diary);
        assert.equal(diary.lines.filter((line) => line === type).length > 0, true, what);
      }
    });
    assert.ok(points > 80, `${points} points`);
  });

for (const how of ["at once", "later", "invariant"] as const)
  test(`I4: no effect of a backup that fails ${how} gives up the VM of a lost primary`, async () => {
    await play(BACKUP_LIVES, how, backup, async (diary, { life, type }, phase, remedy) => {
      const what = `life ${life}, ${type}, then ${phase}: ${remedy}`;
      if (["recovering", "running"].includes(phase)) assert.notEqual(remedy, "begin-anew", what);
      await untilQuiet(diary);
    });
  });

test("an effect that fails at once and one that fails later have the same remedy", () => {
  const failing = (how: How, type: string) =>
    play(PRIMARY_LIVES, how, primary, async (_diary, point, _phase, remedy) => {
      if (point.type === type) remedies.get(how)!.push(remedy);
    });
  const remedies = new Map<How, (string | undefined)[]>([
    ["at once", []],
    ["later", []],
  ]);
  return (async () => {
    for (const type of ["capture", "release", "connect", "send-goodbye", "begin-epochs"]) {
      await failing("at once", type);
      await failing("later", type);
    }
    assert.deepEqual(remedies.get("later"), remedies.get("at once"));
    assert.ok(remedies.get("later")!.length > 10);
  })();
});

function counting(log: string[]): Machine<number, string, { readonly type: string }> {
  return {
    step: (state, event) => ({
      state: state + 1,
      effects: [{ type: `${event}1` }, { type: `${event}2` }],
    }),
    carryOut: ({ type }) => {
      log.push(`${type} in ${loopState(log)}`);
    },
    stepped: () => log.push("stepped"),
    failed: (what, error) => log.push(`failed ${what.duty}: ${error.message}`),
  };
}
let loopState: (log: string[]) => number = () => Number.NaN;

test("an event that an effect feeds waits until all effects of the present one are begun", () => {
  const log: string[] = [];
  const machine = counting(log);
  const loop: EventLoop<number, string, { readonly type: string }> = new EventLoop(0, {
    ...machine,
    carryOut: (effect) => {
      if (effect.type === "a1") loop.feed("b");
      return machine.carryOut(effect, 0);
    },
  });
  loopState = () => loop.state;
  loop.feed("a");
  assert.deepEqual(log, ["a1 in 1", "a2 in 1", "stepped", "b1 in 2", "b2 in 2", "stepped"]);
});

test("effects behind one that failed are carried out, but not behind a broken invariant", () => {
  for (const [error, expected] of [
    [new Error("no"), ["failed effect: no", "a2 in 1", "stepped"]],
    [new InvariantBroken("I1", "no"), ["failed effect: I1 would be broken: no", "stepped"]],
  ] as const) {
    const log: string[] = [];
    const machine = counting(log);
    const loop: EventLoop<number, string, { readonly type: string }> = new EventLoop(0, {
      ...machine,
      carryOut: (effect) => {
        if (effect.type === "a1") throw error;
        return machine.carryOut(effect, 0);
      },
    });
    loopState = () => loop.state;
    loop.feed("a");
    assert.deepEqual(log, expected);
  }
});

test("the loop asks the tables: what it did with a refused event is what they say", () => {
  const diary = new Diary();
  const loop = primary(diary);
  for (const event of toProtected) loop.feed(event);
  loop.feed({ type: "capture-ended" });
  assert.equal(primaryRemedy("step", false, loop.state), "kill-vm");
  assert.deepEqual(diary.lines.at(-1), "remedy kill-vm");
  const other = new Diary();
  const standby = backup(other);
  for (const event of [...toArmed, { type: "primary-lost", reason } as const]) standby.feed(event);
  standby.feed({ type: "standby-runs" });
  assert.equal(backupRemedy("step", false, standby.state), "tell");
  assert.equal(other.lines.at(-1), "ask-arbiter");
});
