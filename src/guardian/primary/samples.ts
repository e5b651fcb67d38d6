/**
 * Numbers measured over a protection. Percentiles come from a histogram (HdrHistogram, of Node's own), so
 * that asking for them costs the same after a minute and after a year; the last values are kept beside it, to
 * be put together with those of other runs.
 */
import { createHistogram } from "node:perf_hooks";

/** Values that are kept as they are; the oldest give way (I6). */
export const MOST_KEPT = 1 << 14;
/** Values in one answer: writing it down must not keep the main thread from its heartbeats. */
export const MOST_IN_SLICE = 1 << 12;
/** Significant figures of a percentile: it is at most a thousandth too large. */
const FIGURES = 3;
const HIGHEST = 2 ** 42;

export interface Summary {
  /** All that were measured. */
  readonly count: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly max: number;
}

export interface Slice {
  /** Number of the first value: 0 is the first that was measured. */
  readonly from: number;
  readonly samples: number[];
}

export class Samples {
  private readonly histogram = createHistogram({ lowest: 1, highest: HIGHEST, figures: FIGURES });
  private readonly perUnit: number;
  private readonly ring = new Float64Array(MOST_KEPT);
  private added = 0;
  private largest = 0;
  last = 0;

  /** @param perUnit steps in a unit: values, never negative, are told apart no finer in percentiles */
  constructor(perUnit = 1) {
    this.perUnit = perUnit;
  }

  add(value: number): void {
    this.ring[this.added++ % MOST_KEPT] = value;
    this.last = value;
    this.largest = Math.max(this.largest, value);
    // The histogram begins at 1.
    this.histogram.record(Math.min(Math.max(0, Math.round(value * this.perUnit)) + 1, HIGHEST));
  }

  clear(): void {
    this.histogram.reset();
    this.added = 0;
    this.largest = 0;
  }

  /** How many there were. */
  get count(): number {
    return this.added;
  }

  /** Values from number `from` on in their order, at most `MOST_IN_SLICE`, and none that has given way. */
  slice(from: number): Slice {
    const first = Math.min(Math.max(from, this.added - MOST_KEPT), this.added);
    const length = Math.min(this.added - first, MOST_IN_SLICE);
    return {
      from: first,
      samples: Array.from({ length }, (_, index) => this.ring[(first + index) % MOST_KEPT]!),
    };
  }

  /** Nearest-rank percentiles of all; zeros when there is nothing. */
  summary(): Summary {
    const { added, histogram, largest, perUnit } = this;
    if (added === 0) return { count: 0, p50: 0, p95: 0, p99: 0, max: 0 };
    // The histogram rounds the rank to the nearest; what it is asked for is exactly one.
    const rank = (share: number) => (100 * Math.ceil(share * added)) / added;
    const percentile = (share: number) =>
      Math.min((histogram.percentile(rank(share)) - 1) / perUnit, largest);
    return { count: added, p50: percentile(0.5), p95: percentile(0.95), p99: percentile(0.99), max: largest };
  }
}
