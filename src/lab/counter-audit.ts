/**
 * Judges the answers of one counter that only this client increments, one request at a time. A VM that
 * outlives its host answers previous + 1 for ever; anything else is a failure that has a name here.
 */
export class CounterAudit {
  /** Answers at or below one seen before: the guest went back to an older state. */
  wentBack = 0;
  /** Acknowledged increments that were missing in such an answer. */
  lost = 0;
  /** Increments too many: applied twice, or made by somebody else. */
  repeated = 0;
  /** The highest answer; 0 while there was none. */
  highest = 0;
  #last: number | undefined;
  /** Requests whose connection broke before the answer. Each may have been applied, or not. */
  #unanswered = 0;

  /** `value`: what INCR returned. The first one is taken as it comes. */
  answer(value: number): void {
    if (this.#last !== undefined) {
      const expected = this.#last + 1;
      if (value < expected) {
        this.wentBack += 1;
        this.lost += expected - value;
      } else if (value > expected + this.#unanswered) {
        this.repeated += value - expected - this.#unanswered;
      }
    }
    if (this.#last === undefined || value > this.highest) this.highest = value;
    this.#last = value;
    this.#unanswered = 0;
  }

  /** The connection broke while a request was on its way. */
  leftUnanswered(): void {
    this.#unanswered += 1;
  }
}
