/** Random numbers that a seed repeats. */
import { random } from "../../src/lab/demo.ts";

export class Dice {
  private readonly seed: number;
  private thrown = 0;

  constructor(seed: number) {
    this.seed = seed;
  }

  /** In [from, to). */
  between(from: number, to: number): number {
    return from + (to - from) * random(this.seed * 1_000_003 + this.thrown++);
  }

  /** A whole number in [0, below). */
  below(below: number): number {
    return Math.floor(this.between(0, below));
  }

  one<T>(of: readonly T[]): T {
    return of[this.below(of.length)]!;
  }
}
