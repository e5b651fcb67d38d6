/**
 * The model guest. Whatever happens to it goes into a chain of hashes: each step's value is made of the one
 * before, the step's number, and what a client has sent. A step puts its value into a page of memory,
 * sometimes into a block of the disk, and sometimes out on the network. So every state of the guest says all
 * of its past, and a mixture of two states cannot look like one.
 */

import { BLOCKS } from "./storage.ts";

export const PAGES = 6;
const HOT_BLOCKS = 4;

/**
 * A stretch of the guest's life with one past. A copy that goes on elsewhere begins a new one, from a step of
 * its parent.
 */
export class Timeline {
  readonly id: number;
  readonly parent: Timeline | undefined;
  /** The last step of the parent's that is its past. */
  readonly from: number;
  /** Of one that began with a start from a disk: who ran on that disk before. */
  readonly booted: Timeline | undefined;

  constructor(id: number, before: { parent: Timeline; from: number } | { booted: Timeline | undefined }) {
    this.id = id;
    this.parent = "parent" in before ? before.parent : undefined;
    this.from = "parent" in before ? before.from : 0;
    this.booted = "booted" in before ? before.booted : undefined;
  }

  /** Whether what step `seq` of `other` has written to the disk may be found on this one's. */
  mayHave(other: Timeline, seq: number): boolean {
    if (this.knows(other, seq, Number.POSITIVE_INFINITY)) return true;
    let first: Timeline = this;
    while (first.parent !== undefined) first = first.parent;
    return first.booted?.mayHave(other, seq) ?? false;
  }

  /** Whether step `seq` of `other` is in the past of step `now` of this one. */
  knows(other: Timeline, seq: number, now: number): boolean {
    let line: Timeline | undefined = this;
    let until = now;
    while (line !== undefined) {
      if (line === other) return seq <= until;
      until = Math.min(until, line.from);
      line = line.parent;
    }
    return false;
  }
}

export interface Frame {
  readonly timeline: Timeline;
  readonly seq: number;
  readonly chain: number;
  readonly at: number;
}

/** The whole of a guest at one instant. */
export interface Snapshot {
  readonly timeline: Timeline;
  readonly seq: number;
  readonly chain: number;
  readonly pages: readonly number[];
  readonly blocks: readonly number[];
  /** Devices that somebody has plugged in, which no standby has. */
  readonly plugged: number;
}

export interface Stepped {
  /** The block that was written, if one was. */
  readonly block: number | undefined;
  readonly output: Frame | undefined;
  readonly flush: boolean;
}

export class Guest {
  readonly timeline: Timeline;
  seq: number;
  chain: number;
  readonly pages: number[];
  readonly dirty = new Set<number>();

  constructor(timeline: Timeline, from?: Snapshot, pages?: readonly number[]) {
    this.timeline = timeline;
    this.seq = from?.seq ?? 0;
    this.chain = from?.chain ?? timeline.id;
    this.pages = [...(pages ?? new Array<number>(PAGES).fill(0))];
  }

  /** @param input what a client has sent; 0: nothing. @param flushEvery steps, on average; 0: never */
  step(input: number, at: number, writesDisk: boolean, flushEvery: number): Stepped {
    this.seq++;
    this.chain = mix(mix(this.chain, this.seq), input);
    const page = this.chain % PAGES;
    this.pages[page] = this.chain;
    this.dirty.add(page);
    // Most writes go to the same few blocks: others stay as they are for long, and only a resync that is
    // right gets them over.
    const among = (this.chain >>> 4) % 4 === 0 ? BLOCKS : HOT_BLOCKS;
    const block = writesDisk ? (this.chain >>> 8) % among : undefined;
    const speaks = input !== 0 || (this.chain >>> 16) % 2 === 0;
    const output = speaks ? { timeline: this.timeline, seq: this.seq, chain: this.chain, at } : undefined;
    return { block, output, flush: flushEvery > 0 && (this.chain >>> 20) % flushEvery === 0 };
  }

  snapshot(blocks: readonly number[], plugged: number): Snapshot {
    const { chain, pages, seq, timeline } = this;
    return { chain, seq, timeline, pages: [...pages], blocks: [...blocks], plugged };
  }
}

/** 31 bits, never 0. */
function mix(a: number, b: number): number {
  let h = Math.imul(a ^ (b + 0x9e3779b9 + (a << 6) + (a >>> 2)), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return ((h ^ (h >>> 16)) & 0x7fffffff) | 1;
}
