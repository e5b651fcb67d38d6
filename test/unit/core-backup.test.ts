import assert from "node:assert/strict";
import { test } from "node:test";
import { playBackup } from "./core-scenario.ts";

/** Checkpoints 0 and 1 acknowledged, 0 committed. */
const ARMED = `
  session-opened 1     →                    | filling
  checkpoint-whole 0   → ack 0, commit 0    | armed
  committed 0          →
  checkpoint-whole 1   → ack 1, commit 1    | armed
`;

test("I2: whole checkpoints are acknowledged and committed one after the other", () => {
  const state = playBackup(`${ARMED}
    committed 1          →
    checkpoint-whole 2   → ack 2, commit 2
    checkpoint-whole 3   → ack 3, commit 3
    committed 2          →
  `);
  assert.deepEqual(state, { phase: "armed", generation: 1, acked: 3, committed: 2 });
});

test("I2: a checkpoint or a commit out of order, twice, or ahead of its ack stops everything", () => {
  playBackup(
    "session-opened 1 →\n checkpoint-whole 1 → !! I2 would be broken: checkpoint 1 before checkpoint 0",
  );
  for (const [wrong, why] of [
    ["checkpoint-whole 1", "checkpoint 1 after checkpoint 1"],
    ["checkpoint-whole 3", "checkpoint 3 after checkpoint 1"],
    ["committed 0", "checkpoint 0 was committed after 0, with 1 acknowledged"],
    ["committed 2", "checkpoint 2 was committed after 0, with 1 acknowledged"],
    // Next in line, but nobody was told that it is whole.
    ["committed 1 →\n committed 2", "checkpoint 2 was committed after 1, with 1 acknowledged"],
  ])
    playBackup(`${ARMED}\n ${wrong} → !! I2 would be broken: ${why}`);
  playBackup(
    `${ARMED}\n primary-lost → warn, drop-incomplete, ask-arbiter 1\n committed 2 → !! I2 would be broken`,
  );
});

test("part 6, primary lost: granted, the last acknowledged checkpoint is committed first, then the standby runs, once", () => {
  const state = playBackup(`${ARMED}
    primary-lost         → warn, drop-incomplete, ask-arbiter 1   | arbitrating
    verdict granted 2    → takeover 1 2                           | recovering
    primary-lost         →
    committed 1          → run-standby 1                          | recovering
    primary-lost         →
    standby-runs         → warn                                   | running
    primary-lost         →                                        | running
  `);
  assert.deepEqual(state, { phase: "running", generation: 2 });
});

test("part 6, primary lost: a commit that ends before the verdict is enough, but the verdict is waited for (I3)", () => {
  playBackup(`${ARMED}
    primary-lost         → warn, drop-incomplete, ask-arbiter 1   | arbitrating
    committed 1          →                                        | arbitrating
    primary-lost         →                                        | arbitrating
    verdict granted 2    → takeover 1 2, run-standby 1              | recovering
  `);
});

test("part 6, primary lost and the arbiter denies: this copy stays down", () => {
  playBackup(`${ARMED}
    primary-lost         → warn, drop-incomplete, ask-arbiter 1   | arbitrating
    verdict denied 2     → close-link, warn                       | stood-down
    committed 1          →                                        | stood-down
    primary-lost         →                                        | stood-down
  `);
});

test("I4: with checkpoint 0 not yet committed, losing the primary still leads to a VM that runs", () => {
  playBackup(`
    session-opened 1     →                                        | filling
    checkpoint-whole 0   → ack 0, commit 0                        | armed
    primary-lost         → warn, drop-incomplete, ask-arbiter 1   | arbitrating
    verdict granted 2    → takeover 0 2                           | recovering
    committed 0          → run-standby 0                          | recovering
  `);
});

test("I2: a first pass that breaks off is forgotten, nobody is asked, and the next primary is welcome", () => {
  playBackup(`
    session-opened 1   →                             | filling
    primary-lost       → forget, close-link, warn    | waiting
    session-opened 1   →                             | filling
    goodbye            → forget, goodbye-ok          | waiting
  `);
});

test("I5: after goodbye this host does not take over, whatever becomes of the link", () => {
  playBackup(`${ARMED}
    goodbye            → forget, goodbye-ok          | waiting
    primary-lost       →                             | waiting
    session-opened 1   →                             | filling
  `);
});

test("I3: a primary of an older generation is sent away", () => {
  playBackup(`${ARMED}
    goodbye            → forget, goodbye-ok          | waiting
    session-opened 3   →                             | filling
    primary-lost       → forget, close-link, warn    | waiting
    session-opened 2   → warn, close-link            | waiting
  `);
});

test("a standby that cannot run is an error for the operator, and this host is done", () => {
  const state = playBackup(`${ARMED}
    committed 1          →
    primary-lost         → warn, drop-incomplete, ask-arbiter 1   | arbitrating
    verdict granted 2    → takeover 1 2, run-standby 1              | recovering
    standby-failed       → close-link, error                      | stood-down
  `);
  assert.match(
    (state as { reason: string }).reason,
    /the standby could not run the VM: as the scenario says/,
  );
});

test("events that the protocol rules out are our bug, named with phase and event", () => {
  const lost = "primary-lost → warn, drop-incomplete, ask-arbiter 1";
  for (const [before, event] of [
    ["", "goodbye"],
    ["", "checkpoint-whole 0"],
    ["", "verdict granted 2"],
    ["session-opened 1 →", "session-opened 1"],
    ["session-opened 1 →", "committed 0"],
    [ARMED, "session-opened 1"],
    [ARMED, "verdict granted 2"],
    [ARMED, "standby-runs"],
    [`${ARMED}\n ${lost}`, "goodbye"],
    [`${ARMED}\n ${lost}`, "checkpoint-whole 2"],
    [`${ARMED}\n ${lost}\n verdict granted 2 → takeover 1 2`, "verdict granted 3"],
    [`${ARMED}\n ${lost}\n verdict denied 2 → close-link, warn`, "session-opened 2"],
  ] as const) {
    const { phase } = playBackup(before);
    const name = event.split(" ")[0];
    playBackup(`${before}\n ${event} → !! backup in state "${phase}" cannot take "${name}"`);
  }
});
