/**
 * A fault that somebody met, and the tests that show that it is gone. `npm run cases` runs them and prints
 * the table.
 */
export interface Case {
  /** Its number in the list of faults; with a letter, a sibling found while it was mended. */
  readonly number: number | string;
  /** What was done. */
  readonly input: string;
  /** What must happen. */
  readonly right: string;
  readonly tests: readonly {
    /** Below the project's folder. */
    readonly file: string;
    /** The test's title, exactly. */
    readonly name: string;
  }[];
}
