/**
 * What guests were promised: when a flush has returned, everything that was written before it is safe. Kept
 * by the judge, who compares it with the disk from which a VM is started.
 */
import type { Guest, Timeline } from "./guest.ts";

interface Flushed {
  readonly timeline: Timeline;
  readonly seq: number;
  readonly blocks: readonly number[];
  /** Two hosts held it in their memories, and neither had it on stable storage yet. */
  soft: boolean;
}

/** Who wrote a value to the disk. */
type Writes = ReadonlyMap<number, { readonly timeline: Timeline; readonly seq: number }>;

/** So many flushes of a copy can matter: a standby never goes on from further back. */
const KEPT = 300;

export class Promises {
  private readonly flushes = new Map<Timeline, Flushed[]>();

  flushed({ seq, timeline }: Guest, blocks: readonly number[], soft: boolean): void {
    const made = this.flushes.get(timeline) ?? [];
    this.flushes.set(timeline, made);
    // Of those that are safe the last says all.
    if (!soft && made.length > KEPT) made.splice(0, KEPT / 2);
    made.push({ timeline, seq, blocks: [...blocks], soft });
  }

  /** What this copy was promised is on stable storage from here on. */
  kept(timeline: Timeline): void {
    for (const one of this.flushes.get(timeline) ?? []) one.soft = false;
  }

  /** A flush of this copy, up to that step, lies in two memories only. */
  hasSoft(timeline: Timeline, until: number): boolean {
    return this.flushes.get(timeline)?.some(({ seq, soft }) => soft && seq <= until) ?? false;
  }

  /**
   * The block that was promised to the newest copy, and is not on the disk from which a VM starts; undefined
   * if all of it is there.
   */
  broken(newest: Timeline, blocks: readonly number[], writes: Writes): number | undefined {
    const promise = this.last(newest);
    if (promise === undefined) return undefined;
    const { seq, timeline } = promise;
    const block = blocks.findIndex((value, i) => {
      if (value === promise.blocks[i]) return false;
      const by = writes.get(value);
      return by === undefined || !isLater(by, timeline, seq);
    });
    return block < 0 ? undefined : block;
  }

  /** The last one in the past of a copy. */
  private last(newest: Timeline): Flushed | undefined {
    let until = Number.POSITIVE_INFINITY;
    for (let line: Timeline | undefined = newest; line !== undefined; ) {
      const found = this.flushes.get(line)?.findLast(({ seq, soft }) => !soft && seq <= until);
      if (found !== undefined) return found;
      until = line.parent === undefined ? Number.POSITIVE_INFINITY : line.from;
      line = line.parent ?? line.booted;
    }
    return undefined;
  }
}

/** Whether a write was made by somebody in whose past the step is. */
function isLater(by: { timeline: Timeline; seq: number }, timeline: Timeline, seq: number): boolean {
  if (by.timeline.knows(timeline, seq, by.seq)) return true;
  let first = by.timeline;
  while (first.parent !== undefined) first = first.parent;
  return first.booted?.mayHave(timeline, seq) ?? false;
}
