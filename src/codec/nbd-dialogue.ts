/**
 * What one side hears, written from top to bottom: a generator that yields how many bytes it needs next and
 * is given them. The bytes may come in pieces of any size. It may also yield a buffer of its own, which is
 * then filled in place.
 */
import { LONGEST_OPTION_DATA } from "./nbd.ts";

/**
 * What is yielded: a count, at most `LONGEST_OPTION_DATA`, or memory to fill. What comes back is good until
 * the next yield.
 */
export type Script<Result> = Generator<number | Uint8Array, Result, Buffer>;

export class Dialogue<Result> {
  readonly #script: Script<Result>;
  readonly #scratch = Buffer.alloc(LONGEST_OPTION_DATA);
  #wanted: Buffer = this.#scratch.subarray(0, 0);
  #filled = 0;
  #result: { readonly value: Result } | undefined;

  /** Runs the script up to where it needs the first byte. Throws what it throws, like `push`. */
  constructor(script: Script<Result>) {
    this.#script = script;
    this.#take(script.next());
    this.#advance();
  }

  /** What the script returned; undefined while it runs. */
  get result(): Result | undefined {
    return this.#result?.value;
  }

  /** Returns how many bytes were consumed: all, unless the script ended within the chunk. */
  push(chunk: Uint8Array): number {
    let at = 0;
    while (at < chunk.length && this.#result === undefined) {
      const end = Math.min(chunk.length, at + this.#wanted.length - this.#filled);
      this.#wanted.set(chunk.subarray(at, end), this.#filled);
      this.#filled += end - at;
      at = end;
      this.#advance();
    }
    return at;
  }

  /** A script that needs nothing goes on at once. */
  #advance(): void {
    while (this.#result === undefined && this.#filled === this.#wanted.length)
      this.#take(this.#script.next(this.#wanted));
  }

  #take(step: IteratorResult<number | Uint8Array, Result>): void {
    this.#filled = 0;
    if (step.done) {
      this.#result = { value: step.value };
      return;
    }
    const { value } = step;
    if (typeof value !== "number")
      this.#wanted = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    else if (value > this.#scratch.length)
      throw new RangeError(`a step needs ${value} bytes; ${this.#scratch.length} is the most`);
    else this.#wanted = this.#scratch.subarray(0, value);
  }
}
