// Protection that was lost comes back by itself (I4): when it is tried, how often, and when no more.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Keeping,
  keepStepped,
  keepTried,
  startKeeping,
  stopKeeping,
  triesNow,
} from "../../src/core/keep-protected.ts";
import { startPrimary } from "../../src/core/primary.ts";
import { playPrimary } from "./core-scenario.ts";

const SETTINGS = { retryMs: 2_000 };
const UNPROTECTED = startPrimary(1);
const CONNECTING = playPrimary("protect-asked → connect");
const SYNCING = playPrimary("protect-asked → connect\n link-up → start-capture");
const ENDING = playPrimary(
  "protect-asked → connect\n link-up → start-capture\n link-lost → close-link, end-capture, warn",
);
const FIRST_PASS_DONE = `
  protect-asked    → connect
  link-up          → start-capture
  first-pass-done  → begin-epochs
  sent 0           →`;
const WHOLE = playPrimary(`${FIRST_PASS_DONE}\n acked 0 → release 0`);

/** Each state at its time. */
function through(from: Keeping, ...states: [typeof UNPROTECTED, number][]): Keeping {
  return states.reduce((keeping, [state, now]) => keepStepped(keeping, state, now, SETTINGS), from);
}
const first = startKeeping(false, 0, SETTINGS);
const round = (atMs: number): [typeof UNPROTECTED, number][] => [
  [CONNECTING, atMs],
  [SYNCING, atMs],
  [ENDING, atMs],
  [UNPROTECTED, atMs],
];

test("a VM that nobody wanted protected is left alone", () => {
  assert.equal(triesNow(first, 1e9), false);
  // A try that came to nothing, or a first pass that did not end: whoever asked was told.
  const failed = through(first, ...round(10));
  assert.equal(failed.wanted, false);
  const notWhole = through(first, [playPrimary(FIRST_PASS_DONE), 10]);
  assert.equal(notWhole.wanted, false);
});

test("who was protected once is protected again, a while after it was lost", () => {
  const lost = through(first, [CONNECTING, 0], [WHOLE, 100], [ENDING, 5_000], [UNPROTECTED, 5_010]);
  assert.deepEqual([lost.wanted, triesNow(lost, 7_009), triesNow(lost, 7_010)], [true, false, true]);
  // Not while it is under way, whatever the clock says.
  assert.equal(triesNow(through(lost, [CONNECTING, 7_010]), 99_000), false);
  assert.equal(triesNow(through(lost, [WHOLE, 7_010]), 99_000), false);
});

test("a survivor wants it from the start", () => {
  const survivor = startKeeping(true, 100, SETTINGS);
  assert.deepEqual([triesNow(survivor, 2_099), triesNow(survivor, 2_100)], [false, true]);
});

test("stop is stop, until somebody has it protected again", () => {
  const stopped = stopKeeping(through(first, [WHOLE, 0]));
  // What comes after the word must not bring the wish back.
  const over = through(stopped, [WHOLE, 10], [ENDING, 20], [UNPROTECTED, 30]);
  assert.deepEqual([over.wanted, triesNow(over, 1e9)], [false, false]);
  const again = through(over, [CONNECTING, 40], [WHOLE, 50]);
  assert.equal(again.wanted, true);
});

test("a stop before checkpoint 0 is acknowledged stands, though its ack comes while the backup is told", () => {
  const leaving = `${FIRST_PASS_DONE}\n stop-asked → send-goodbye`;
  const stopped = stopKeeping(through(first, [playPrimary(leaving), 10]));
  const over = through(stopped, [playPrimary(`${leaving}\n acked 0 → release 0`), 20], [UNPROTECTED, 30]);
  assert.equal(over.wanted, false);
});

test("I4: what happens while the VM is unprotected puts off no try", () => {
  const lost = through(first, [WHOLE, 0], [UNPROTECTED, 10]);
  const later = through(lost, [UNPROTECTED, 1_000], [UNPROTECTED, 2_000]);
  assert.deepEqual([triesNow(later, 2_009), triesNow(later, 2_010)], [false, true]);
});

test("where nobody answers it is tried at an even pace", () => {
  let keeping = startKeeping(true, 0, SETTINGS);
  for (const now of [2_000, 4_000, 6_000, 8_000]) {
    assert.deepEqual([triesNow(keeping, now - 1), triesNow(keeping, now)], [false, true]);
    keeping = through(keeping, [CONNECTING, now], [UNPROTECTED, now]);
  }
});

test("a try that never began is not repeated at once", () => {
  const tried = keepTried(startKeeping(true, 0, SETTINGS), 2_000, SETTINGS);
  assert.deepEqual([triesNow(tried, 3_999), triesNow(tried, 4_000)], [false, true]);
});

test("first passes that come to nothing get rarer, up to one a minute; a sound protection forgets that", () => {
  let keeping = startKeeping(true, 0, SETTINGS);
  let now = 0;
  const waits: number[] = [];
  for (let time = 0; time < 8; time++) {
    keeping = through(keeping, ...round(now));
    waits.push(keeping.tryAtMs - now);
    now = keeping.tryAtMs;
  }
  assert.deepEqual(waits, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
  const lasted = (ms: number) => {
    const end = through(
      keeping,
      [CONNECTING, now],
      [WHOLE, now],
      [ENDING, now + ms],
      [UNPROTECTED, now + ms],
    );
    return end.tryAtMs - (now + ms);
  };
  assert.deepEqual([lasted(9_999), lasted(10_000)], [60_000, 2_000]);
  // And the next one after a sound one waits as the first did.
  const sound = through(keeping, [WHOLE, now], [UNPROTECTED, now + 10_000], ...round(now + 20_000));
  assert.equal(sound.tryAtMs - (now + 20_000), 4_000);
});

test("who waits longer than a minute as it is, is not made to wait less", () => {
  const settings = { retryMs: 90_000 };
  let keeping = startKeeping(true, 0, settings);
  for (const state of [SYNCING, ENDING, UNPROTECTED, SYNCING, ENDING, UNPROTECTED])
    keeping = keepStepped(keeping, state, 10, settings);
  assert.equal(keeping.tryAtMs, 90_010);
});
