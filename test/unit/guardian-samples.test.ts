import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MOST_IN_SLICE, MOST_KEPT, Samples } from "../../src/guardian/primary/samples.ts";
import { PrimaryStatistics } from "../../src/guardian/primary/statistics.ts";

test("percentiles of whole numbers up to 2000 are nearest-rank: always a value that was measured", () => {
  const samples = new Samples();
  for (const value of [5, 1, 4, 2, 3]) samples.add(value);
  assert.deepEqual(samples.summary(), { count: 5, p50: 3, p95: 5, p99: 5, max: 5 });
  assert.equal(samples.last, 3);
  const hundred = new Samples();
  for (let value = 100; value >= 1; value--) hundred.add(value);
  assert.deepEqual(hundred.summary(), { count: 100, p50: 50, p95: 95, p99: 99, max: 100 });
});

test("any percentile is the nearest-rank one, or at most a thousandth and a step above it", () => {
  const values = fc.array(fc.double({ min: 0, max: 1e8, noNaN: true }), { minLength: 1, maxLength: 300 });
  fc.assert(
    fc.property(values, (all) => {
      const samples = new Samples(1000);
      for (const value of all) samples.add(value);
      const { p50, p95, p99, max } = samples.summary();
      const sorted = all.toSorted((one, other) => one - other);
      for (const [share, value] of [
        [0.5, p50],
        [0.95, p95],
        [0.99, p99],
      ] as const) {
        const exact = sorted[Math.ceil(share * all.length) - 1]!;
        assert.ok(value >= exact - 0.0006, `${value} for ${exact}`);
        assert.ok(value <= exact * 1.001 + 0.0021, `${value} for ${exact}`);
      }
      assert.equal(max, sorted.at(-1));
    }),
  );
});

test("with nothing measured, and after clear, everything is zero", () => {
  const samples = new Samples();
  assert.deepEqual(samples.summary(), { count: 0, p50: 0, p95: 0, p99: 0, max: 0 });
  samples.add(9);
  samples.clear();
  assert.deepEqual(samples.summary(), { count: 0, p50: 0, p95: 0, p99: 0, max: 0 });
  assert.deepEqual(samples.slice(0), { from: 0, samples: [] });
});

test("I6: the last values are kept and told in slices, in their order, while all are counted", () => {
  const samples = new Samples();
  const all = MOST_KEPT + 10;
  for (let value = 0; value < all; value++) samples.add(value);
  assert.equal(samples.summary().count, all);
  const told: number[] = [];
  for (let from = 0; from < all; ) {
    const slice = samples.slice(from);
    assert.ok(slice.samples.length <= MOST_IN_SLICE);
    told.push(...slice.samples);
    from = slice.from + slice.samples.length;
  }
  assert.deepEqual(
    told,
    Array.from({ length: MOST_KEPT }, (_, n) => n + 10),
  );
  assert.deepEqual(samples.slice(all + 5), { from: all, samples: [] });
});

test("I6: what a status and a slice cost does not grow with what was measured", () => {
  const after = (checkpoints: number) => {
    const statistics = new PrimaryStatistics();
    for (let n = 0; n < checkpoints; n++) {
      statistics.paused(n * 25_000);
      statistics.resumed(n * 25_000 + 3000 + (n % 977));
      statistics.captured(n % 5000);
    }
    const text = JSON.stringify([statistics.summary(0), statistics.samples()]);
    return { statistics, bytes: text.length };
  };
  const anHour = after(150_000);
  const fewMinutes = after(2 * MOST_KEPT);
  assert.ok(anHour.bytes < 1.1 * fewMinutes.bytes, `${anHour.bytes} and ${fewMinutes.bytes} bytes`);
  const { samples } = anHour.statistics.samples().pauseMs;
  assert.ok(samples.length <= MOST_IN_SLICE);
});

test("what went over the link is told after the protection's end, too, and counted from the last reset on", () => {
  const statistics = new PrimaryStatistics();
  const told = (bytesOnWire?: number) => statistics.summary(bytesOnWire).bytesOnWire;
  statistics.reset(0);
  assert.equal(told(900), 900);
  statistics.reset(900);
  assert.equal(told(1000), 100);
  statistics.ended(1200);
  assert.equal(told(), 300);
  statistics.reset(undefined);
  assert.equal(told(), 0);
  statistics.reset(0);
  assert.equal(told(50), 50);
});
