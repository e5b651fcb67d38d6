// Why: the reasons that effects carry to the other host, to the end of the VM, and to whoever gave an order.

import assert from "node:assert/strict";
import { test } from "node:test";
import { type BackupEffect, type BackupEvent, stepBackup } from "../../src/core/backup.ts";
import { stepPrimary } from "../../src/core/primary.ts";
import type { PrimaryEffect, PrimaryEvent } from "../../src/core/primary-protocol.ts";
import { askedToStart, SET_OUT, type Starting, startUp } from "../../src/core/start-up.ts";
import { playBackup, playPrimary, SETTINGS } from "./core-scenario.ts";

const reason = "the cat sits on it";

/** Of each effect of that type its text, if it has one. The type of a report is its level. */
function texts(effects: readonly (PrimaryEffect | BackupEffect)[], type: string): (string | undefined)[] {
  return effects
    .filter((effect) => (effect.type === "report" ? effect.level : effect.type) === type)
    .map((effect) => ("reason" in effect ? effect.reason : "text" in effect ? effect.text : undefined));
}

const SYNCING = "protect-asked → connect\n link-up → start-capture";
const PROTECTED = `${SYNCING}
  first-pass-done  → begin-epochs
  sent 0           →
  acked 0          → release 0
`;
const CAPTURING = `${PROTECTED}
  requested        → wake 25
  @25 tick         → capture 1
`;
const LOST = `${PROTECTED} link-lost → warn, close-link, ask-arbiter 1`;
const FAILURES = [
  ["capture-failed", `capture failed: ${reason}`],
  ["output-failed", `holding output failed: ${reason}`],
  ["disk-failed", `copying disk writes failed: ${reason}`],
] as const;

/** @param said what the one effect of that `type` must hold */
function primaryTells(before: string, event: PrimaryEvent, type: string, said: string): void {
  const { effects } = stepPrimary(playPrimary(before), event, 30, SETTINGS);
  const found = texts(effects, type);
  assert.ok(
    found.length === 1 && found[0]?.includes(said),
    `${event.type}: ${type} says ${JSON.stringify(found)} and not "${said}"`,
  );
}

function backupTells(before: string, event: BackupEvent, type: string, said: string): void {
  const found = texts(stepBackup(playBackup(before), event).effects, type);
  assert.ok(
    found.length === 1 && found[0]?.includes(said),
    `${event.type}: ${type} says ${JSON.stringify(found)} and not "${said}"`,
  );
}

test("I3: a VM that is killed is killed for a reason, with the generation that has moved on", () => {
  const takeover = { type: "takeover", generation: 2 } as const;
  primaryTells(PROTECTED, takeover, "kill-vm", "the backup has taken over (generation 2)");
  const denied = { type: "verdict", granted: false, generation: 2 } as const;
  primaryTells(LOST, denied, "kill-vm", "the arbiter has given the VM to the backup (generation 2)");
  const hung = { type: "hypervisor-hung", reason } as const;
  primaryTells(PROTECTED, hung, "kill-vm", `${reason}; the backup can go on`);
});

test("a takeover that is out of date is named as that, where it ends a protection", () => {
  const { state, effects } = stepPrimary(
    playPrimary(PROTECTED),
    { type: "takeover", generation: 0 },
    30,
    SETTINGS,
  );
  assert.equal(state.phase, "arbitrating");
  assert.match(String(texts(effects, "warn")), /believes in an older generation/);
});

test("an order that cannot be carried out now is refused with the reason", () => {
  for (const [before, event, said] of [
    [`${PROTECTED} switchover-asked →`, { type: "hold-asked", atEpoch: 0 }, "about to be handed over"],
    [`${PROTECTED} hold-asked →`, { type: "switchover-asked" }, "the VM is held, or about to be"],
    [
      `${CAPTURING} stop-asked →`,
      { type: "switchover-asked" },
      "about to end: protection was stopped, as asked",
    ],
  ] as const)
    primaryTells(before, event, "warn", said);
});

test("whoever gave an order hears that it was taken", () => {
  primaryTells(PROTECTED, { type: "switchover-asked" }, "info", "switchover asked for");
  primaryTells(PROTECTED, { type: "stop-asked" }, "info", "stopped, as asked");
  backupTells("", { type: "session-opened", generation: 1 }, "info", "a primary has come");
});

test("a switchover that is asked for twice is one switchover: the second time nothing is said and nothing changes", () => {
  for (const before of [PROTECTED, CAPTURING]) {
    const asked = playPrimary(`${before} switchover-asked →`);
    assert.deepEqual(stepPrimary(asked, { type: "switchover-asked" }, 30, SETTINGS), {
      state: asked,
      effects: [],
    });
  }
});

test("a part of protection that fails is named, with what it said, whenever it fails", () => {
  for (const [type, said] of FAILURES) {
    primaryTells(SYNCING, { type, reason }, "warn", said);
    primaryTells(PROTECTED, { type, reason }, "info", said);
  }
  primaryTells(SYNCING, { type: "link-lost", reason }, "warn", `first pass broken off: ${reason}`);
  primaryTells(SYNCING, { type: "unable", reason }, "warn", `the backup cannot go on: ${reason}`);
});

test("a failure that ends protection only after the capture is still the one that is named", () => {
  for (const failed of ["output-failed", "disk-failed"] as const) {
    const { state } = stepPrimary(playPrimary(CAPTURING), { type: failed, reason }, 30, SETTINGS);
    const { effects } = stepPrimary(state, { type: "captured", epoch: 1, bytes: 4096 }, 31, SETTINGS);
    assert.match(String(texts(effects, "info")[0]), new RegExp(reason));
  }
});

const FILLING = "session-opened 1 →";
const ARMED = `${FILLING}\n checkpoint-whole 0 → ack 0, commit 0`;
const ASKED = `${ARMED}\n handover-asked 0 → drop-incomplete, ask-arbiter 1`;
const GRANTED = `${ASKED}\n verdict granted 2 →`;

test("I5: a handover that is refused is refused with the reason: the primary's operator must be able to act on it", () => {
  for (const [before, event, said] of [
    [FILLING, { type: "handover-asked", epoch: 0 }, "no whole checkpoint is here yet"],
    [ARMED, { type: "handover-asked", epoch: 2 }, "checkpoint 0 is the last one here, not 2"],
    [ASKED, { type: "handover-expired" }, "the arbiter has not answered in time"],
    [
      ASKED,
      { type: "verdict", granted: false, generation: 2 },
      "the arbiter has given the VM to the primary",
    ],
    [ASKED, { type: "commit-failed", reason }, `the images are not whole: ${reason}`],
    [ASKED, { type: "standby-failed", reason }, `the standby cannot run the VM: ${reason}`],
    [GRANTED, { type: "commit-failed", reason }, `the images are not whole: ${reason}`],
    [GRANTED, { type: "standby-failed", reason }, `the standby could not run the VM: ${reason}`],
  ] as const)
    backupTells(before, event, "refuse-handover", said);
});

test("I4: a host that can no longer take over says why", () => {
  for (const before of [FILLING, ARMED])
    backupTells(before, { type: "commit-failed", reason }, "unable", reason);
});

test("a host that starts says why it runs the VM, or waits", () => {
  const record = { generation: 3, images: "owner" } as const;
  const newest = { generation: 4, host: "b" };
  for (const [what, said] of [
    [{ role: "primary", record, newest }, "the VM was given to b as generation 4"],
    [
      { role: "backup", record: undefined, newest: undefined },
      "configured so, and this host has not had the VM",
    ],
    [{ role: "backup", record, newest: undefined }, "configured so"],
    [{ role: "primary", record, newest: undefined }, "this host had the VM last"],
    [{ role: "primary", record: SET_OUT, newest: undefined }, "no host has had the VM"],
    [{ role: "primary", record: SET_OUT, newest: { generation: 1, host: "a" } }, "no host has had the VM"],
    [
      { role: "primary", record: { ...record, session: "s" }, newest: undefined },
      "its backup may hold a newer state",
    ],
  ] as const) {
    const starting: Starting = { host: "a", witnessed: true, detectionMs: 200, ...what };
    assert.ok(startUp(starting).why.includes(said), `"${startUp(starting).why}" and not "${said}"`);
  }
  assert.match(
    askedToStart({ granted: false, generation: 5 }).why,
    /given to the other host as generation 5/,
  );
});
