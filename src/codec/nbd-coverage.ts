/** Which bytes of a read have come. Chunks may come in any order and must not overlap. */

/** Gaps may be filled later; a server that leaves more of them than this is not reading a disk. */
const MOST_RUNS = 1024;

export class Coverage {
  readonly #from: number;
  /** Sorted, apart from one another. */
  readonly #runs: { from: number; to: number }[] = [];

  constructor(from: number) {
    this.#from = from;
  }

  /** False, and nothing done, if some of these bytes have come before, or there would be too many gaps. */
  add(from: number, to: number): boolean {
    const runs = this.#runs;
    let next = runs.length;
    while (next > 0 && runs[next - 1]!.from >= from) next--;
    const before = runs[next - 1];
    const after = runs[next];
    if ((before !== undefined && before.to > from) || (after !== undefined && after.from < to)) return false;
    if (before?.to === from) {
      before.to = to;
      if (after?.from === to) {
        before.to = after.to;
        runs.splice(next, 1);
      }
    } else if (after?.from === to) {
      after.from = from;
    } else {
      if (runs.length >= MOST_RUNS) return false;
      runs.splice(next, 0, { from, to });
    }
    return true;
  }

  /** Whether everything up to `to` has come. */
  reaches(to: number): boolean {
    const [first] = this.#runs;
    return first !== undefined && first.from === this.#from && first.to === to;
  }
}
