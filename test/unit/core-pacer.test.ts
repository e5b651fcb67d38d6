import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { pace, paceCapture, paceSent, startPacing } from "../../src/core/pacer.ts";

const SETTINGS = { intervalMs: 25, maxInFlight: 4 };
const FREE = { running: 5, acked: 4 };
/** Pacing from `now` on, with checkpoint 4 sent. */
const begin = (now: number) => paceSent(startPacing(now, SETTINGS), 4);

test("an epoch ends when the interval is over, and not before", () => {
  const pacer = begin(1000);
  assert.deepEqual(pace(pacer, SETTINGS, FREE, 1000), { kind: "at", atMs: 1025 });
  assert.deepEqual(pace(pacer, SETTINGS, FREE, 1024.9), { kind: "at", atMs: 1025 });
  assert.deepEqual(pace(pacer, SETTINGS, FREE, 1025), { kind: "now" });
});

test("the rate holds: captures that start up to half an interval late do not shift the grid", () => {
  const lateness = fc.array(fc.double({ min: 0, max: 12.5, noNaN: true }), { minLength: 1, maxLength: 200 });
  fc.assert(
    fc.property(lateness, (late) => {
      let pacer = begin(0);
      for (const [index, ms] of late.entries()) {
        const due = (index + 1) * 25;
        assert.deepEqual(pace(pacer, SETTINGS, FREE, due - 0.001), { kind: "at", atMs: due });
        assert.deepEqual(pace(pacer, SETTINGS, FREE, due + ms), { kind: "now" });
        pacer = paceCapture(pacer, SETTINGS, due + ms);
      }
    }),
    { numRuns: 50 },
  );
});

test("after a long wait there is no burst: every epoch has at least half an interval", () => {
  const waits = fc.array(fc.double({ min: 0, max: 500, noNaN: true }), { maxLength: 50 });
  fc.assert(
    fc.property(waits, (late) => {
      let pacer = begin(0);
      for (const ms of late) {
        const now = pacer.dueMs + ms;
        pacer = paceCapture(pacer, SETTINGS, now);
        assert.ok(pacer.dueMs >= now + 12.5, `captured at ${now}, due again at ${pacer.dueMs}`);
        assert.ok(pacer.dueMs <= now + 25, `captured at ${now}, due again only at ${pacer.dueMs}`);
      }
    }),
  );
});

test("I6: as many checkpoints as allowed may be unacknowledged, and not one more", () => {
  const pacer = paceSent(startPacing(0, SETTINGS), 8);
  assert.equal(pace(pacer, SETTINGS, { running: 8, acked: 4 }, 99).kind, "now"); // 5, 6, 7 in flight
  assert.deepEqual(pace(pacer, SETTINGS, { running: 9, acked: 4 }, 99), { kind: "blocked", by: "acks" });
});

test("I6: no checkpoint is begun behind one that has not left for the link in full", () => {
  const started = startPacing(0, SETTINGS);
  assert.deepEqual(pace(started, SETTINGS, { running: 1, acked: -1 }, 99), { kind: "blocked", by: "link" });
  assert.equal(pace(paceSent(started, 0), SETTINGS, { running: 1, acked: -1 }, 99).kind, "now");
  const three = paceSent(started, 3);
  assert.deepEqual(pace(three, SETTINGS, FREE, 99), { kind: "blocked", by: "link" });
  assert.equal(pace(paceSent(three, 4), SETTINGS, FREE, 99).kind, "now");
});
