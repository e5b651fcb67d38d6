/**
 * Chance with a seed: xoshiro128**, seeded by splitmix32. The same seed gives the same run, on any machine.
 */
export class Random {
  private readonly s: Uint32Array;

  constructor(seed: number) {
    let x = seed >>> 0;
    const next = () => {
      x = (x + 0x9e3779b9) >>> 0;
      let z = x;
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      return (z ^ (z >>> 16)) >>> 0;
    };
    this.s = Uint32Array.from([next(), next(), next(), next() | 1]);
  }

  /** 32 bits. */
  bits(): number {
    const s = this.s;
    const mixed = Math.imul(s[1]!, 5);
    const result = Math.imul((mixed << 7) | (mixed >>> 25), 9) >>> 0;
    const t = s[1]! << 9;
    s[2]! ^= s[0]!;
    s[3]! ^= s[1]!;
    s[1]! ^= s[2]!;
    s[0]! ^= s[3]!;
    s[2]! ^= t;
    s[3] = (s[3]! << 11) | (s[3]! >>> 21);
    return result;
  }

  /** From 0 up to, not with, 1. */
  unit(): number {
    return this.bits() / 2 ** 32;
  }

  between(from: number, to: number): number {
    return from + this.unit() * (to - from);
  }

  /** A whole number from 0 up to, not with, `count`. */
  below(count: number): number {
    return Math.floor(this.unit() * count);
  }

  chance(probability: number): boolean {
    return this.unit() < probability;
  }

  pick<T>(among: readonly T[]): T {
    return among[this.below(among.length)]!;
  }

  /**
   * As long as events of a constant rate are apart that come `mean` apart on average, but no more than six
   * times that.
   */
  gap(mean: number): number {
    return Math.min(6 * mean, -mean * Math.log(1 - this.unit()));
  }
}
