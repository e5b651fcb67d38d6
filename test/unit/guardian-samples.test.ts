import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Samples } from "../../src/guardian/samples.ts";

test("percentiles are nearest-rank: always a value that was measured", () => {
  const samples = new Samples();
  for (const value of [5, 1, 4, 2, 3]) samples.add(value);
  assert.deepEqual(samples.summary(), { count: 5, p50: 3, p95: 5, p99: 5, max: 5 });
  assert.equal(samples.last, 3);
  const hundred = new Samples();
  for (let value = 100; value >= 1; value--) hundred.add(value);
  assert.deepEqual(hundred.summary(), { count: 100, p50: 50, p95: 95, p99: 99, max: 100 });
});

test("the share of values up to a percentile is at least what it says, and any smaller value has less", () => {
  const values = fc.array(fc.double({ noNaN: true, noDefaultInfinity: true }), {
    minLength: 1,
    maxLength: 300,
  });
  fc.assert(
    fc.property(values, (all) => {
      const samples = new Samples();
      for (const value of all) samples.add(value);
      const { p50, p95, p99, max } = samples.summary();
      for (const [share, value] of [
        [0.5, p50],
        [0.95, p95],
        [0.99, p99],
        [1, max],
      ] as const) {
        assert.ok(all.filter((one) => one <= value).length >= share * all.length - 1e-9);
        assert.ok(all.filter((one) => one < value).length < share * all.length);
      }
    }),
  );
});

test("with nothing measured, and after clear, everything is zero", () => {
  const samples = new Samples();
  assert.deepEqual(samples.summary(), { count: 0, p50: 0, p95: 0, p99: 0, max: 0 });
  samples.add(9);
  samples.clear();
  assert.deepEqual(samples.summary(), { count: 0, p50: 0, p95: 0, p99: 0, max: 0 });
});

test("I6: beyond 131072 values the oldest give way, and all are still counted", () => {
  const samples = new Samples();
  for (let index = 0; index < 10; index++) samples.add(1000);
  for (let index = 0; index < 1 << 17; index++) samples.add(1);
  assert.deepEqual(samples.summary(), { count: (1 << 17) + 10, p50: 1, p95: 1, p99: 1, max: 1 });
});
