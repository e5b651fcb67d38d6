import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { SilenceDetector } from "../../src/core/silence.ts";

/**
 * Ticks every tickMs after `fromMs` until the detector says lost; gives that time, or undefined up to
 * `untilMs`.
 */
function firstLost(detector: SilenceDetector, fromMs: number, untilMs: number, stepMs = detector.tickMs) {
  for (let now = fromMs + stepMs; now <= untilMs; now += stepMs) {
    if (detector.tick(now) === "lost") return now;
  }
  return undefined;
}

test("I4: a silent peer is lost after the detection time, not before, and within one tick more", () => {
  assert.equal(firstLost(new SilenceDetector(200, 1000), 1000, 5000), 1200);
  const heardBetweenTicks = new SilenceDetector(200, 0);
  heardBetweenTicks.tick(25);
  heardBetweenTicks.heard(30);
  assert.equal(firstLost(heardBetweenTicks, 25, 5000), 250);
});

test("I3: a peer that is heard just within the detection time is never lost", () => {
  const detector = new SilenceDetector(200, 0);
  for (let now = 25; now < 60_000; now += 25) {
    if (now % 175 === 0) detector.heard(now);
    assert.equal(detector.tick(now), "quiet", `at ${now} ms`);
  }
});

test("I3: after a stall of our own a late tick concludes nothing, and what lay in the socket is heard first", () => {
  const detector = new SilenceDetector(200, 0);
  // 190 ms of real silence, then we stand still for a minute.
  assert.equal(firstLost(detector, 0, 175), undefined);
  assert.equal(detector.tick(60_175), "quiet");
  assert.equal(detector.tick(60_200), "quiet");
  detector.heard(60_201); // the backlog
  assert.equal(firstLost(detector, 60_200, 60_400), undefined);
});

test("I4: a peer that died while we were stalled is lost once ticks have been regular for a quarter window", () => {
  const detector = new SilenceDetector(200, 0);
  assert.equal(firstLost(detector, 0, 175), undefined);
  assert.equal(detector.tick(10_000), "quiet");
  assert.equal(firstLost(detector, 10_000, 20_000), 10_050);
});

test("I4: a process whose every tick is late still comes to a conclusion", () => {
  const detector = new SilenceDetector(200, 0);
  const lostAt = firstLost(detector, 0, 10_000, 100);
  assert.ok(lostAt !== undefined && lostAt >= 400 && lostAt <= 1200, `lost at ${lostAt}`);
});

test("I4: a process that stalls every other tick comes to a conclusion after three detection times awake, at a tick in time", () => {
  const detector = new SilenceDetector(200, 0);
  let now = 0;
  let lost = false;
  let ticks = 0;
  for (; ticks < 40 && !lost; ticks++) {
    now += ticks % 2 === 0 ? 100 : 25;
    lost = detector.tick(now) === "lost";
  }
  assert.ok(lost, `still quiet after ${now} ms of silence`);
  // Of each pair of ticks 25 ms each count.
  assert.equal(ticks * 25, 3 * 200);
  assert.equal(ticks % 2, 0);
});

test("I3: a tick that comes two tick times after the last is in time, and one after that counts as one tick of silence", () => {
  assert.equal(firstLost(new SilenceDetector(200, 0), 0, 5000, 50), 4 * 50);
  assert.equal(firstLost(new SilenceDetector(200, 0), 0, 5000, 51), 8 * 51);
});

test("hearing the peer again takes the loss back", () => {
  const detector = new SilenceDetector(200, 0);
  assert.equal(firstLost(detector, 0, 1000), 200);
  assert.equal(detector.silentMs(230), 230);
  detector.heard(230);
  assert.equal(detector.tick(240), "quiet");
  assert.equal(detector.silentMs(240), 10);
});

test("I3: whatever the ticks are like, never lost before the detection time of silence, never by the first late tick", () => {
  // Rarely heard, or else hardly any silence would be long enough to conclude anything.
  const heard = fc.nat({ max: 29 }).map((one) => one === 0);
  const gapMs = fc.oneof(fc.integer({ min: 1, max: 900 }), fc.integer({ min: 1, max: 50 }));
  const steps = fc.array(fc.record({ gapMs, heard }), { maxLength: 80, size: "max" });
  fc.assert(
    fc.property(steps, (script) => {
      const detector = new SilenceDetector(200, 0);
      let now = 0;
      let heardAt = 0;
      let wasLate = false;
      for (const { gapMs, heard } of script) {
        now += gapMs;
        const late = gapMs > 50;
        if (detector.tick(now) === "lost") {
          assert.ok(now - heardAt >= 200);
          assert.ok(!late || wasLate, "concluded on the first late tick");
        }
        wasLate = late;
        if (heard) {
          detector.heard(now);
          heardAt = now;
        }
      }
    }),
  );
});

test("a detection time that is none is refused", () => {
  assert.throws(() => new SilenceDetector(0, 0), /detection time 0 ms/);
  assert.throws(() => new SilenceDetector(Number.NaN, 0), /detection time/);
});
