/**
 * The judge: it stands outside, as a client, and knows what has really happened. What the two cores believe
 * is nothing to it.
 */
import type { Claim } from "../../../src/core/arbiter.ts";
import { Foresight, type Outlook } from "./foresight.ts";
import type { Frame, Guest, Snapshot } from "./guest.ts";
import { Timeline } from "./guest.ts";
import { Promises } from "./promises.ts";
import type { Surroundings } from "./surroundings.ts";

/**
 * An order to release is good for half a detection time from the hearing of the ack on; and so long may the
 * ack have lain unread.
 */
const LATE_MS = 2 * 100 + 30;

interface Copy {
  readonly timeline: Timeline;
  readonly host: string;
  readonly era: number;
  readonly beganMs: number;
  endedMs: number;
  alive: boolean;
}

/** What the judge is told of a run beside what happens in it. */
export interface Court extends Surroundings, Pick<Outlook, "mostOnTheWayBytes" | "other" | "phaseOf"> {
  host(name: string): ReturnType<Surroundings["host"]> & ReturnType<Outlook["host"]>;
  /** This run has one failure, and no more. */
  readonly onlyOneFailure: boolean;
  /** The run is over. */
  readonly ending: boolean;
  /** The newest claim at the witness. */
  readonly claimed: Claim | undefined;
  /** A host has answered "done" to stop, for this copy; and nobody has asked for protection since. */
  readonly stopped: { readonly host: string; readonly timeline: Timeline; readonly seq: number } | undefined;
}

export class Checker {
  /** The last frame that a client has seen, and when. */
  last: Frame | undefined;
  lastReleaseMs = 0;
  releasedFrames = 0;
  /** Frames of an old owner that left after the new one's, within what the protocol says of a late ack. */
  lateFrames = 0;
  /** The newest checkpoint that was committed anywhere: of whom, where, when. */
  committed: { readonly timeline: Timeline; readonly host: string; readonly at: number } | undefined;
  readonly foresight: Foresight;
  private readonly promises = new Promises();
  private readonly copies: Copy[] = [];
  /** Who wrote a value to the disk. */
  private readonly writes = new Map<number, { readonly timeline: Timeline; readonly seq: number }>();
  private readonly world: Court;
  private era = 0;

  constructor(world: Court) {
    this.world = world;
    this.foresight = new Foresight(world, this);
  }

  /** A block that a copy, or one before it, was told is safe, and that is not among these. */
  lacks(timeline: Timeline, blocks: readonly number[]): number | undefined {
    return this.promises.broken(timeline, blocks, this.writes);
  }

  writer(value: number): { readonly timeline: Timeline; readonly seq: number } | undefined {
    return this.writes.get(value);
  }

  hasSoftPromise(timeline: Timeline, seq: number): boolean {
    return this.promises.hasSoft(timeline, seq);
  }

  get newest(): Copy | undefined {
    return this.copies.at(-1);
  }

  /** A guest starts from a disk. */
  boots(host: string, blocks: readonly number[]): Timeline {
    const { newest, world } = this;
    const timeline = new Timeline(this.copies.length + 1, { booted: newest?.timeline });
    this.era++;
    world.note(host, `the VM starts from its disk (copy ${timeline.id})`);
    if (newest !== undefined) {
      world.count("starts from the disk");
      if (newest.alive) this.fail("I3", `the VM starts on ${host}, and its copy on ${newest.host} is there`);
      if (newest.host !== host)
        this.fail("I2", `the VM starts from ${host}'s disk, and it ran on ${newest.host} last`);
      for (const value of blocks) {
        const by = this.writes.get(value);
        if (by !== undefined && !newest.timeline.mayHave(by.timeline, by.seq))
          this.fail(
            "I2",
            `the VM starts from a disk with a block in it that copy ${by.timeline.id} wrote, which is not its past`,
          );
      }
      const lost = this.lacks(newest.timeline, blocks);
      if (lost !== undefined)
        this.fail(
          "I2",
          `the VM starts from a disk that lacks what copy ${newest.timeline.id} was told is safe: block ${lost} is ${this.whence(blocks[lost]!)}`,
        );
      if (world.onlyOneFailure) this.fail("I4", "the VM had to start from its disk after a single failure");
    }
    this.copies.push({ timeline, host, era: this.era, beganMs: world.time.now, endedMs: 0, alive: true });
    return timeline;
  }

  /** A standby goes on from what it was given. */
  loads(host: string, state: Snapshot, pages: readonly number[], blocks: readonly number[]): Timeline {
    const { last, world } = this;
    const timeline = new Timeline(this.copies.length + 1, { parent: state.timeline, from: state.seq });
    world.note(
      host,
      `the VM goes on here from step ${state.seq} of copy ${state.timeline.id} (copy ${timeline.id})`,
    );
    this.compare(host, "the VM goes on", state, pages, blocks);
    if (last !== undefined && !state.timeline.knows(last.timeline, last.seq, state.seq))
      this.fail(
        "I1",
        `a client has seen step ${last.seq} of copy ${last.timeline.id}, of which copy ${timeline.id} knows nothing: it goes on from step ${state.seq} of copy ${state.timeline.id}`,
      );
    world.count("goes on on the other host");
    this.copies.push({ timeline, host, era: this.era, beganMs: world.time.now, endedMs: 0, alive: true });
    return timeline;
  }

  wrote(guest: Guest, value: number): void {
    this.writes.set(value, { timeline: guest.timeline, seq: guest.seq });
  }

  /**
   * A flush of the guest's has returned. @param soft it is on nobody's stable storage, but in two memories
   */
  flushed(guest: Guest, blocks: readonly number[], soft: boolean): void {
    this.promises.flushed(guest, blocks, soft);
  }

  /** What a copy was promised is on stable storage. */
  hardened(timeline: Timeline): void {
    this.promises.kept(timeline);
  }

  /** The images of a host are said to be at a checkpoint now. */
  commits(host: string, state: Snapshot, pages: readonly number[], blocks: readonly number[]): void {
    this.compare(host, "a checkpoint is committed", state, pages, blocks);
    const { stopped } = this.world;
    if (stopped?.timeline === state.timeline && state.seq > stopped.seq)
      this.fail(
        "stop",
        `${stopped.host} said at step ${stopped.seq} that protection was stopped, and ${host} commits step ${state.seq}`,
      );
    this.committed = { timeline: state.timeline, host, at: this.world.time.now };
  }

  /** Its guardian has killed a VM, or ends, and the VM with it. @param how in a sentence: "was killed" */
  killed(host: string, timeline: Timeline, how = "was killed"): void {
    const copy = this.copies.find((one) => one.timeline === timeline);
    if (copy?.alive !== true || this.world.ending || this.world.host(host).endAsked) return;
    const newest = this.world.claimed;
    if (newest === undefined || newest.host === host)
      this.fail("I5", `the VM on ${host} ${how}, and the witness has given it to nobody else`);
  }

  ended(timeline: Timeline): void {
    for (const copy of this.copies)
      if (copy.timeline === timeline) {
        copy.alive = false;
        copy.endedMs = this.world.time.now;
      }
  }

  /** A frame has left its host: a client sees it. */
  released(frame: Frame, host: string): void {
    const { last } = this;
    const copy = this.copies.find((one) => one.timeline === frame.timeline)!;
    this.releasedFrames++;
    this.foresight.released(frame, host);
    if (last === undefined) this.accept(frame);
    else {
      const lastEra = this.copies.find((one) => one.timeline === last.timeline)!.era;
      if (copy.era > lastEra || frame.timeline.knows(last.timeline, last.seq, frame.seq)) {
        if (frame.timeline === last.timeline && frame.seq <= last.seq)
          this.fail("I1", `step ${frame.seq} of copy ${frame.timeline.id} went out after step ${last.seq}`);
        this.accept(frame);
      } else if (last.timeline.knows(frame.timeline, frame.seq, last.seq)) this.oldOwner(frame, host);
      else
        this.fail(
          copy.era < lastEra || copy.beganMs < this.beganMs(last.timeline) ? "I3" : "I1",
          `step ${frame.seq} of copy ${frame.timeline.id} went out on ${host}, and step ${last.seq} of copy ${last.timeline.id} had gone out before: neither knows of the other`,
        );
    }
  }

  private accept(frame: Frame): void {
    this.last = frame;
    this.lastReleaseMs = this.world.time.now;
  }

  private beganMs(timeline: Timeline): number {
    return this.copies.find((one) => one.timeline === timeline)!.beganMs;
  }

  /**
   * The survivor knows the frame, and speaks already. docs/specs/protocol.md allows it for one reason alone:
   * the ack was on its way when the backup gave the connection up.
   */
  private oldOwner(frame: Frame, host: string): void {
    const { last, world } = this;
    const now = world.time.now;
    const heard = world.host(host).heard;
    const successor = this.copies.find((one) => one.timeline.parent === frame.timeline) ?? this.newest!;
    if (heard !== undefined && heard.sentAtMs <= successor.beganMs && now - heard.arrivedAtMs <= LATE_MS) {
      this.lateFrames++;
      world.count("late frames of an old owner, known to the new one");
      return;
    }
    this.fail(
      "I3",
      `${host} let step ${frame.seq} of copy ${frame.timeline.id} out, and copy ${last!.timeline.id} has spoken for ${Math.round(now - successor.beganMs)} ms; what ${host} heard last was sent ${heard === undefined ? "never" : `${Math.round(now - heard.sentAtMs)} ms ago and came ${Math.round(now - heard.arrivedAtMs)} ms ago`}`,
    );
  }

  private compare(
    host: string,
    when: string,
    state: Snapshot,
    pages: readonly number[],
    blocks: readonly number[],
  ): void {
    const page = pages.findIndex((value, i) => value !== state.pages[i]);
    const block = blocks.findIndex((value, i) => value !== state.blocks[i]);
    if (page >= 0 || block >= 0)
      this.fail(
        "I2",
        `${when} on ${host} at step ${state.seq} of copy ${state.timeline.id}, and ${page >= 0 ? `page ${page} is ${this.whence(pages[page]!)}` : `block ${block} is ${this.whence(blocks[block]!)}, not ${this.whence(state.blocks[block]!)}`}`,
      );
  }

  private whence(value: number): string {
    const by = this.writes.get(value);
    if (value === 0) return "blank";
    return by === undefined ? "of another step" : `of step ${by.seq} of copy ${by.timeline.id}`;
  }

  fail(invariant: string, text: string): void {
    this.world.violated(invariant, text);
  }
}
