/**
 * The judge's second half: what would be wrong if something failed at this very instant. A failure inside a
 * window of milliseconds is seldom drawn; that the window is open is seen each time. It looks at what leaves
 * a host and at what lies on stable storage, as whoever comes after the failure would.
 */
import type { Claim } from "../../../src/core/arbiter.ts";
import type { Frame, Timeline } from "./guest.ts";

/** A host, as far as it is needed here. */
export interface Foreseen {
  readonly name: string;
  readonly guardian: { readonly alive: boolean } | undefined;
  /** Its standby cannot load a state; since when. */
  readonly loadFailsSinceMs: number | undefined;
  /** What would be found after a power failure that keeps no more than it must. */
  readonly safeRecord: string | undefined;
  readonly safeBlocks: readonly number[];
  /** What is on its disk image now; and the blocks that its write-intent logs name. */
  readonly blocks: readonly number[];
  readonly loggedBlocks: ReadonlySet<number>;
}

export interface Outlook {
  /** With so many bytes of checkpoints not acknowledged no further one may be taken. */
  readonly mostOnTheWayBytes: number;
  readonly time: { readonly now: number };
  readonly claimed: Claim | undefined;
  other(host: string): Foreseen;
  host(name: string): Foreseen;
  /** "primary ending", say: what this host's guardian has told last. */
  phaseOf(host: string): string;
  count(what: string): void;
  violated(invariant: string, text: string): void;
}

/** What the judge knows of the guests. */
export interface Known {
  readonly last: Frame | undefined;
  readonly newest:
    | { readonly timeline: Timeline; readonly host: string; readonly alive: boolean }
    | undefined;
  /** A block that was promised to be safe, and is not among these. */
  lacks(timeline: Timeline, blocks: readonly number[]): number | undefined;
  /** Whose step wrote this to the disk. */
  writer(value: number): Step | undefined;
  /** A flush up to this step has returned that lies in two memories only. */
  hasSoftPromise(timeline: Timeline, seq: number): boolean;
}

/** One protection: checkpoints that were captured, by their number. */
interface Captures {
  readonly timeline: Timeline;
  readonly steps: number[];
  /** The step of the last checkpoint that was acknowledged. */
  acked: number;
  readonly beganMs: number;
  /** The newest claim's generation when it began. */
  readonly generation: number;
  /** Captured, and not acknowledged. */
  onTheWay: { readonly epoch: number; readonly bytes: number }[];
}

/** A backup that could go on with the VM from this step. */
interface Armed {
  readonly captures: Captures;
  readonly seq: number;
  readonly guardian: object | undefined;
}

/** A step of a guest's. */
interface Step {
  readonly timeline: Timeline;
  readonly seq: number;
}

interface StateRecord {
  readonly generation: number;
  readonly images: string;
  readonly session?: string;
  readonly handedOver?: boolean;
}

const ARMED = new Set(["backup armed", "backup arbitrating", "backup recovering"]);

export class Foresight {
  private readonly world: Outlook;
  private readonly known: Known;
  /** By the host of the VM. */
  private readonly captures = new Map<string, Captures>();
  /** By the host of the backup. */
  private readonly armed = new Map<string, Armed>();

  constructor(world: Outlook, known: Known) {
    this.world = world;
    this.known = known;
  }

  /** A checkpoint has been taken out of the VM on this host. */
  captured(host: string, { timeline, seq }: Step, epoch: number, bytes: number): void {
    const { claimed, mostOnTheWayBytes, time } = this.world;
    if (epoch === 0) {
      const generation = claimed?.generation ?? 0;
      this.captures.set(host, {
        timeline,
        steps: [],
        acked: -1,
        beganMs: time.now,
        generation,
        onTheWay: [],
      });
    }
    const captures = this.captures.get(host);
    if (captures === undefined) return;
    captures.steps[epoch] = seq;
    const before = captures.onTheWay.reduce((sum, one) => sum + one.bytes, 0);
    if (before >= mostOnTheWayBytes)
      this.world.violated(
        "I6",
        `checkpoint ${epoch} was taken with ${before} bytes of others not acknowledged; ${mostOnTheWayBytes} are the limit`,
      );
    if (epoch > 0) captures.onTheWay.push({ epoch, bytes });
  }

  /** A backup says that it holds a checkpoint. */
  acks(host: string, epoch: number): void {
    const { world } = this;
    const primary = world.other(host).name;
    const captures = this.captures.get(primary);
    const seq = captures?.steps[epoch];
    // What was sent over a path that is lost is sent again over another one.
    if (captures === undefined || seq === undefined || seq <= captures.acked) return;
    const { guardian } = world.host(host);
    this.armed.set(host, { captures, seq, guardian });
    captures.acked = seq;
    captures.onTheWay = captures.onTheWay.filter((one) => one.epoch > epoch);
    if (epoch !== 0 || this.isGivenTo(primary, captures)) return;
    world.count("looked ahead: a backup is armed");
    this.mayTakeOver(host, captures, seq);
    this.mustHaveNoted(primary, captures);
  }

  /**
   * A backup says that it has let go of the VM. What two memories held must be on the disk of the host that
   * has it.
   */
  standsDown(host: string): void {
    const { known, world } = this;
    const primary = world.other(host).name;
    const captures = this.captures.get(primary);
    const { last, newest } = known;
    if (
      captures === undefined ||
      newest?.timeline !== captures.timeline ||
      last?.timeline !== captures.timeline
    )
      return;
    world.count("looked ahead: a backup has stood down");
    if (newest.alive && known.hasSoftPromise(last.timeline, last.seq))
      world.violated(
        "I2",
        `${host} has let go of the VM, a client has seen step ${last.seq}, and if ${primary} lost power now, a flush before that would be lost`,
      );
  }

  /**
   * A frame has left its host. What the VM said must be known to whoever would go on, and what it believes to
   * be safe must be.
   */
  released({ seq, timeline }: Frame, host: string): void {
    const { known, world } = this;
    const backup = this.backupOf(host);
    if (backup !== undefined && backup.captures.timeline === timeline && seq > backup.seq)
      world.violated(
        "I1",
        `step ${seq} of copy ${timeline.id} went out, and if ${host} failed now, the VM would go on from step ${backup.seq}`,
      );
    const alone = ["primary ending", "primary unprotected"].includes(world.phaseOf(host));
    // What the backup had acknowledged may have been on its way out when that was lost.
    const captures = this.captures.get(host);
    const wasKnown = captures?.timeline === timeline && seq <= captures.acked;
    if (alone && !wasKnown && known.hasSoftPromise(timeline, seq))
      world.violated(
        "I2",
        `step ${seq} of copy ${timeline.id} went out with nobody but ${host} to know of it, and a flush before it has not reached stable storage there`,
      );
  }

  /** Something new lies on a host's stable storage. */
  noted(host: string): void {
    const { known, world } = this;
    const record = this.recordOf(host);
    const { newest } = known;
    if (record === undefined || newest?.host !== host || !newest.alive) return;
    const backup = this.backupOf(host);
    if (backup?.captures.timeline === newest.timeline) this.mustHaveNoted(host, backup.captures);
    if (record.images !== "owner" || record.generation === 0 || record.handedOver === true) return;
    world.count("looked ahead: the VM could be started here");
    const lost = known.lacks(newest.timeline, world.host(host).safeBlocks);
    if (lost !== undefined)
      world.violated(
        "I2",
        `${host} has noted that the disks are the VM's, and if it lost power now, block ${lost} would lack what copy ${newest.timeline.id} was told is safe`,
      );
  }

  /**
   * A write-intent log of this host's is gone. What its backup lacks, or what is not on its own stable
   * storage, must stand in another one (I7).
   */
  logGone(host: string): void {
    const { known, world } = this;
    const backup = this.backupOf(host);
    if (backup === undefined || backup.captures.timeline !== known.newest?.timeline) return;
    const { blocks, loggedBlocks, safeBlocks } = world.host(host);
    world.count("looked ahead: a log is gone");
    for (const [block, value] of blocks.entries()) {
      const by = known.writer(value);
      if (by?.timeline !== backup.captures.timeline || loggedBlocks.has(block)) continue;
      if (by.seq > backup.seq || safeBlocks[block] !== value)
        world.violated(
          "I7",
          `block ${block} of step ${by.seq} is in none of ${host}'s logs, and if ${host} failed now, the VM would go on from step ${backup.seq}`,
        );
    }
  }

  /**
   * The backup that could take over from the VM on this host, if there is one, and it has not been ruled out.
   */
  private backupOf(primary: string): Armed | undefined {
    const { world } = this;
    const { guardian, name } = world.other(primary);
    const armed = this.armed.get(name);
    if (armed === undefined) return undefined;
    const isThere = guardian?.alive === true && guardian === armed.guardian && ARMED.has(world.phaseOf(name));
    return isThere && !this.isGivenTo(primary, armed.captures) ? armed : undefined;
  }

  /** The arbiter has ruled the backup of that protection out. */
  private isGivenTo(host: string, { generation }: Captures): boolean {
    const { claimed } = this.world;
    return claimed !== undefined && claimed.generation > generation && claimed.host === host;
  }

  /** Nothing is protected that cannot be failed over. */
  private mayTakeOver(host: string, { beganMs, timeline }: Captures, seq: number): void {
    const { known, world } = this;
    const { last } = known;
    if (last?.timeline === timeline && last.seq > seq)
      world.violated(
        "I1",
        `${host} is armed with step ${seq} of copy ${timeline.id}, and a client has seen step ${last.seq}`,
      );
    const { loadFailsSinceMs } = world.host(host);
    if (loadFailsSinceMs !== undefined && loadFailsSinceMs < beganMs)
      world.violated("I4", `${host} says that it could go on with the VM, and its QEMU cannot load it`);
  }

  /** A host that failed now, and were started again, must know that its backup may have been given the VM. */
  private mustHaveNoted(primary: string, { timeline }: Captures): void {
    const { newest } = this.known;
    if (newest?.timeline !== timeline || !newest.alive) return;
    const { images, session } = this.recordOf(primary) ?? {};
    if (images === "owner" && session !== undefined) return;
    this.world.violated(
      "I3",
      `${primary}'s backup could take over, and if ${primary} failed now, it would find noted: ${images ?? "nothing"}, ${session === undefined ? "no session" : "a session"}`,
    );
  }

  private recordOf(host: string): StateRecord | undefined {
    const text = this.world.host(host).safeRecord;
    if (text === undefined) return undefined;
    try {
      return JSON.parse(text) as StateRecord;
    } catch {
      return undefined;
    }
  }
}
