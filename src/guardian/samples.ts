/** Numbers measured over a protection, kept for percentiles; the oldest give way, so that memory stays bounded. */

const MOST_SAMPLES = 1 << 17;

export interface Summary {
  readonly count: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly max: number;
}

export class Samples {
  private readonly ring = new Float64Array(MOST_SAMPLES);
  private added = 0;
  last = 0;

  add(value: number): void {
    this.ring[this.added++ % MOST_SAMPLES] = value;
    this.last = value;
  }

  clear(): void {
    this.added = 0;
  }

  /** What is kept, in no order. */
  all(): number[] {
    return [...this.ring.slice(0, Math.min(this.added, MOST_SAMPLES))];
  }

  /** Nearest-rank percentiles of what is kept; zeros when there is nothing. */
  summary(): Summary {
    const sorted = this.ring.slice(0, Math.min(this.added, MOST_SAMPLES)).sort();
    const rank = (share: number) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
    return { count: this.added, p50: rank(0.5), p95: rank(0.95), p99: rank(0.99), max: rank(1) };
  }
}
