import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type PacerState,
  pace,
  paceAcked,
  paceCapture,
  paceCaptured,
  paceSent,
  startPacing,
} from "../../src/core/pacer.ts";

const SETTINGS = { intervalMs: 25, maxInFlight: 4, maxInFlightBytes: 2 ** 20 };
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
        pacer = paceCapture(pacer, SETTINGS, FREE, due + ms);
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
        pacer = paceCapture(pacer, SETTINGS, FREE, now);
        assert.ok(pacer.dueMs >= now + 12.5, `captured at ${now}, due again at ${pacer.dueMs}`);
        assert.ok(pacer.dueMs <= now + 25, `captured at ${now}, due again only at ${pacer.dueMs}`);
      }
    }),
  );
});

test("I6: no checkpoint is begun behind one that has not left for the link in full", () => {
  const started = startPacing(0, SETTINGS);
  assert.deepEqual(pace(started, SETTINGS, { running: 1, acked: -1 }, 99), { kind: "blocked", by: "link" });
  assert.deepEqual(pace(paceSent(started, 3), SETTINGS, { running: 5, acked: 3 }, 99), {
    kind: "blocked",
    by: "link",
  });
  assert.equal(pace(paceSent(started, 4), SETTINGS, FREE, 99).kind, "now");
});

test("I6: with maxInFlightBytes not acknowledged no checkpoint is begun, however few they are; an ack makes room", () => {
  const settings = { ...SETTINGS, maxInFlight: 100, maxInFlightBytes: 1000 };
  // The way is known, and long: by their number there is room for many.
  const known = { ...startPacing(0, settings), sent: 9, ack: { tookMs: 2500, atMs: 40 } };
  const two = paceCaptured(paceCaptured(known, 5, 500), 6, 499);
  assert.equal(pace(two, settings, { running: 7, acked: 4 }, 99).kind, "now");
  const three = paceCaptured(two, 7, 1);
  assert.deepEqual(pace(three, settings, { running: 8, acked: 4 }, 99), { kind: "blocked", by: "acks" });
  assert.equal(pace(paceAcked(three, 5, 90), settings, { running: 8, acked: 5 }, 99).kind, "now");
  // It makes room for its own checkpoint, and not for those behind it.
  const large = paceCaptured(paceCaptured(known, 5, 1), 6, 1000);
  const behind = paceAcked(large, 5, 90);
  assert.deepEqual(pace(behind, settings, { running: 7, acked: 5 }, 99), { kind: "blocked", by: "acks" });
  // One that is larger than the bound alone is taken all the same, once nothing is before it.
  const huge = paceCaptured(paceAcked(three, 7, 90), 8, 1e12);
  assert.deepEqual(pace(huge, settings, { running: 9, acked: 7 }, 99), { kind: "blocked", by: "acks" });
  assert.equal(pace(paceAcked(huge, 8, 95), settings, { running: 9, acked: 8 }, 99).kind, "now");
});

test("an ack says that its checkpoint has left, should that not have been said", () => {
  const pacer = paceAcked(startPacing(0, SETTINGS), 0, 20);
  assert.equal(pace(pacer, SETTINGS, { running: 1, acked: 0 }, 99).kind, "now");
});

test("as long as nothing is known of the way, one checkpoint is on it: its ack is what tells", () => {
  const inFlight = { running: 6, acked: 4 };
  let pacer = paceSent(paceCapture(begin(0), SETTINGS, FREE, 25), 5);
  assert.deepEqual(pace(pacer, SETTINGS, inFlight, 50), { kind: "blocked", by: "acks" });
  pacer = paceAcked(pacer, 5, 55);
  assert.equal(pace(pacer, SETTINGS, { running: 6, acked: 5 }, 55).kind, "now");
  assert.equal(pacer.ack?.tookMs, 30);
});

test("I6: what is known of the way holds for 5 s; then nothing is to be before the next checkpoint, to measure it anew", () => {
  const measured = paceAcked(paceSent(paceCapture(begin(0), SETTINGS, FREE, 25), 5), 5, 55);
  const oneInFlight = { running: 7, acked: 5 };
  const pacer = paceSent(measured, 6);
  assert.deepEqual(pace(pacer, SETTINGS, oneInFlight, 55 + 5000), { kind: "now" });
  assert.deepEqual(pace(pacer, SETTINGS, oneInFlight, 55 + 5001), { kind: "blocked", by: "acks" });
});

/** What a link does to a checkpoint that is given to it. Both may change while it is used. */
interface SimulatedLink {
  /** There and back, of an empty checkpoint. */
  wayMs: number;
  /** So long a checkpoint keeps the link to itself. */
  sendMs: number;
  /**
   * So many checkpoints find room in the network's buffers: they have left us before they are on their way.
   */
  readonly buffered: number;
}

/** A guest that always wants a checkpoint, over a made-up link, in steps of a millisecond. */
class SimulatedEpochs {
  now = 0;
  running = 1;
  acked = 0;
  mostInFlight = 0;
  longestEpochMs = 0;
  readonly settings = { intervalMs: 25, maxInFlight: 16, maxInFlightBytes: 2 ** 20 };
  private pacer: PacerState = paceSent(startPacing(0, this.settings), 0);
  private readonly link: SimulatedLink;
  private freeAt = 0;
  private lastAckAt = 0;
  private capturedAt = 0;
  private coming: { atMs: number; what: "sent" | "acked"; epoch: number }[] = [];
  private readonly doneAt: number[] = [0];

  constructor(link: SimulatedLink) {
    this.link = link;
  }

  /** Runs until `epoch` runs, and keeps the figures of that stretch alone. */
  runTo(epoch: number): void {
    this.mostInFlight = 0;
    this.longestEpochMs = 0;
    const deadline = this.now + 1_000_000;
    while (this.running < epoch) {
      assert.ok(this.now < deadline, `epoch ${this.running} does not end`);
      this.millisecond();
    }
  }

  private millisecond(): void {
    this.now++;
    const due = this.coming.filter(({ atMs }) => atMs <= this.now);
    this.coming = this.coming.filter(({ atMs }) => atMs > this.now);
    for (const { what, epoch } of due)
      if (what === "sent") {
        this.pacer = paceSent(this.pacer, epoch);
      } else {
        this.acked = epoch;
        this.pacer = paceAcked(this.pacer, epoch, this.now);
      }
    if (pace(this.pacer, this.settings, this, this.now).kind === "now") this.capture();
  }

  private capture(): void {
    this.pacer = paceCapture(this.pacer, this.settings, this, this.now);
    const epoch = this.running++;
    this.mostInFlight = Math.max(this.mostInFlight, epoch - this.acked);
    this.longestEpochMs = Math.max(this.longestEpochMs, this.now - this.capturedAt);
    this.capturedAt = this.now;
    const { wayMs, sendMs, buffered } = this.link;
    const done = Math.max(this.now, this.freeAt) + sendMs;
    this.freeAt = done;
    this.doneAt[epoch] = done;
    // It has left us once the one `buffered` before it has made room.
    const leftAt = buffered === 0 ? done : Math.max(this.now, this.doneAt[epoch - buffered] ?? 0);
    // No ack overtakes another.
    this.lastAckAt = Math.max(this.lastAckAt, done + wayMs);
    this.coming.push({ atMs: leftAt, what: "sent", epoch }, { atMs: this.lastAckAt, what: "acked", epoch });
  }
}

test("fast link: the rate holds, and at most two checkpoints are on their way", () => {
  for (const wayMs of [1, 10, 24, 30]) {
    const epochs = new SimulatedEpochs({ wayMs, sendMs: 1, buffered: 4 });
    epochs.runTo(1000);
    assert.ok(epochs.mostInFlight <= 2, `${wayMs} ms: ${epochs.mostInFlight} in flight`);
    const perSecond = 1e6 / epochs.now;
    assert.ok(perSecond > 39, `${wayMs} ms: ${perSecond} checkpoints/s`);
  }
});

test("a long, wide way is filled: 300 ms at 25 ms has twelve epochs on it, and one more; never more than allowed", () => {
  const epochs = new SimulatedEpochs({ wayMs: 300, sendMs: 1, buffered: 4 });
  epochs.runTo(500);
  assert.equal(epochs.mostInFlight, 13);
  const perSecond = 500_000 / epochs.now;
  assert.ok(perSecond > 32, `${perSecond} checkpoints/s`);
  epochs.settings.maxInFlight = 4;
  const before = epochs.now;
  epochs.runTo(520);
  epochs.runTo(560);
  assert.equal(epochs.mostInFlight, 4);
  assert.ok(epochs.now - before > (60 / 4) * 300 * 0.9, "four every 300 ms, or the limit was not kept");
});

for (const buffered of [0, 1, 8])
  test(`I6: a link on which a checkpoint takes 200 ms to send has two of them at most, with room for ${buffered} in the network`, () => {
    const epochs = new SimulatedEpochs({ wayMs: 5, sendMs: 200, buffered });
    epochs.runTo(30); // the length of an epoch is learnt
    epochs.runTo(1030);
    assert.ok(epochs.mostInFlight <= 2, `${epochs.mostInFlight} in flight`);
    assert.ok(epochs.longestEpochMs <= 450, `an epoch of ${epochs.longestEpochMs} ms`);
  });

test("a way that becomes longer is learnt at the next probe, one that becomes shorter too", () => {
  // So long that no checkpoint finds the way empty by itself.
  const link = { wayMs: 45, sendMs: 1, buffered: 4 };
  const epochs = new SimulatedEpochs(link);
  epochs.runTo(100);
  link.wayMs = 300;
  const changedAt = epochs.now;
  while (epochs.mostInFlight < 13) {
    epochs.runTo(epochs.running + 1);
    assert.ok(epochs.now - changedAt < 8000, "not learnt within a probe, its ack and a few epochs");
  }
  link.wayMs = 5;
  const shortAt = epochs.now;
  // No new captures overlap once it is known; those under way end first.
  let most = 13;
  while (most > 2) {
    epochs.runTo(epochs.running + 20);
    most = epochs.mostInFlight;
    assert.ok(epochs.now - shortAt < 8000, `${most} in flight long after the way is short`);
  }
});

test("a probe costs at most one ack's time before it, and one behind it", () => {
  const wayMs = 300;
  const epochs = new SimulatedEpochs({ wayMs, sendMs: 1, buffered: 4 });
  epochs.runTo(50);
  const from = epochs.now;
  epochs.runTo(50 + 40 * 30);
  const spent = epochs.now - from;
  const probes = Math.floor(spent / 5000);
  assert.ok(epochs.longestEpochMs <= wayMs + 25, `an epoch of ${epochs.longestEpochMs} ms`);
  assert.ok(epochs.longestEpochMs >= 2 * 25, "no probe was seen, so this shows nothing");
  assert.ok(spent - 1200 * 25 <= (probes + 1) * 2 * (wayMs + 25), `${spent} ms for 30 s of epochs`);
});

test("I6: whatever the link does, never more than maxInFlight are unacknowledged", () => {
  const links = fc.record({
    wayMs: fc.integer({ min: 1, max: 600 }),
    sendMs: fc.integer({ min: 1, max: 300 }),
    buffered: fc.nat({ max: 20 }),
    most: fc.integer({ min: 1, max: 16 }),
    later: fc.integer({ min: 1, max: 600 }),
  });
  fc.assert(
    fc.property(links, ({ most, later, ...link }) => {
      const epochs = new SimulatedEpochs(link);
      epochs.settings.maxInFlight = most;
      epochs.runTo(30);
      link.wayMs = later;
      epochs.runTo(60);
      assert.ok(epochs.mostInFlight <= most);
    }),
    { numRuns: 40 },
  );
});
