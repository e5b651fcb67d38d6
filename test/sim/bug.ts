/** One planted bug. */
import type { Focus } from "./play.ts";
import type { Patch } from "./stand-ins.ts";

export interface Bug {
  readonly why: string;
  /** What a run must be like to show it; a hunt without it takes longer. */
  readonly focus: Focus;
  readonly patches: readonly Patch[];
}

/** The place in `file`, below src/, that reads `find` reads `put` instead. */
export const in1 = (file: string, find: string, put: string): Patch => ({ file, find, put });
