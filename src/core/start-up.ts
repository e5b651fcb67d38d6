/**
 * What a guardian does when it starts: run the VM, or wait for the host that runs it. Pure: what this host
 * noted before it went down, and the arbiter's newest claim, go in.
 *
 * Two things must not happen. A VM must not be started from images that are not the newest (I2, I4). And it
 * must not be started while a backup that still holds its last checkpoint may be granted it (I3): that
 * backup's copy is newer than this host's disks, so it is given time to ask first, and then is ruled out by
 * asking in its place.
 *
 * And nobody starts a VM without a claim for the generation that it runs as, the very first start included:
 * so of two hosts that both take themselves for the first, one is refused, and so is one that has lost what
 * it knew.
 */
import type { Claim, Verdict } from "./arbiter.ts";
import type { Generation, Milliseconds } from "./words.ts";

/** What this host noted of itself. It must be on stable storage before what it says is acted upon. */
export interface OwnRecord {
  /** 0, of an owner: it was about to ask for the very first claim. It has had nothing yet. */
  readonly generation: Generation;
  /**
   * `owner`: the VM runs here, or ran here last. The others: this host's images were a copy when it went
   * down, or half of one.
   */
  readonly images: "owner" | "syncing" | "replica";
  /** Of an owner: a protection that may not have ended. A backup may hold its last checkpoint. */
  readonly session?: string;
  /** Of an owner: it gave the VM away in order. */
  readonly handedOver?: boolean;
}

export interface Starting {
  /** This host's name, as it asks the arbiter. */
  readonly host: string;
  /** The role that the configuration names. */
  readonly role: "primary" | "backup";
  readonly record: OwnRecord | undefined;
  /** The arbiter's newest claim; undefined if there is none. */
  readonly newest: Claim | undefined;
  /** False where nobody keeps claims: then nothing can be waited for, and nobody be ruled out. */
  readonly witnessed: boolean;
  readonly detectionMs: Milliseconds;
}

export type StartUp =
  /** Run the VM as this generation. */
  | { readonly as: "primary"; readonly generation: Generation; readonly why: string }
  | { readonly as: "backup"; readonly generation: Generation; readonly why: string }
  /**
   * Nobody has the VM, for all that is known, and no claim says that this host has: ask the arbiter with
   * `generation`. Granted, run the VM as the next one; denied, decide anew with the newest claim. A host
   * without a record notes `SET_OUT` first: it may fail between the claim and its first record.
   */
  | { readonly as: "claim"; readonly generation: Generation; readonly why: string }
  /**
   * A backup may hold what is newer than this host's disks. Decide anew with each newest claim for `waitMs`,
   * from the first answer on; if no decision but this has come of it by then, ask the arbiter with
   * `generation` and do what `askedToStart` says.
   */
  | {
      readonly as: "ask";
      readonly generation: Generation;
      readonly waitMs: Milliseconds;
      readonly why: string;
    }
  | { readonly as: "nothing"; readonly why: string };

/** What a host without a record notes before its first claim. */
export const SET_OUT: OwnRecord = { generation: 0, images: "owner" };

/** The record of a host that has had the VM, or its images. */
export function recordOf(record: OwnRecord | undefined): OwnRecord | undefined {
  return record === undefined || record.generation === 0 ? undefined : record;
}

/**
 * So many detection times a host leaves to the backup of its last protection, before it asks for the VM
 * itself.
 */
const BACKUP_FIRST_DETECTIONS = 20;

export function startUp({ detectionMs, host, newest, record, role, witnessed }: Starting): StartUp {
  const generation = Math.max(newest?.generation ?? 1, record?.generation ?? 1);
  const backup = (why: string): StartUp => ({ as: "backup", generation, why });
  const primary = (why: string): StartUp =>
    witnessed && (newest?.generation ?? 0) < generation
      ? { as: "claim", generation: generation - 1, why }
      : { as: "primary", generation, why };
  const had = recordOf(record);
  if (newest !== undefined && newest.host !== host && newest.generation > (record?.generation ?? 0)) {
    const given = `the VM was given to ${newest.host} as generation ${newest.generation}`;
    if (had !== undefined || role === "backup") return backup(given);
    return { as: "nothing", why: `${given}${atTime(newest)}, ${NEVER_HAD}` };
  }

  // A host that had only set out has nothing but claim 1.
  if (record === undefined || (had === undefined && newest !== undefined && newest.generation > 1)) {
    if (role === "backup") return backup("it is configured so, and this host has not had the VM");
    if (newest === undefined) return primary("no host has had the VM");
    return {
      as: "nothing",
      why: `this host, ${host}, was given the VM as generation ${newest.generation}${atTime(newest)}, ${FORGOTTEN}`,
    };
  }

  if (isCopy(record)) {
    const copy = `the images here are ${describe(record)} (generation ${record.generation})`;
    if (role === "backup" || newest !== undefined) return backup(copy);
    return {
      as: "nothing",
      why: `${copy}. Start the VM on the host that ran it last, and this one as its backup. If that host is lost for good, remove the state file to start from what is here at your own risk`,
    };
  }

  // Nobody has had the VM after this host.
  if (newest === undefined && role === "backup") return backup("it is configured so");
  if (had === undefined) return primary("no host has had the VM");
  const wonSince = newest?.host === host && newest.generation > record.generation;
  if (record.session === undefined || wonSince || !witnessed) return primary("this host had the VM last");
  return {
    as: "ask",
    generation,
    waitMs: BACKUP_FIRST_DETECTIONS * detectionMs,
    why: "this host had the VM last, but its backup may hold a newer state; it is let go first",
  };
}

/**
 * What is decided whatever the arbiter would say, so that nobody need wait for it; undefined if that matters.
 */
export function startUpUnasked(starting: Omit<Starting, "newest">): StartUp | undefined {
  const decision = startUp({ ...starting, newest: undefined });
  if (!starting.witnessed) return decision;
  // Who is told to wait without a claim may still run the VM with one of its own, but only from images that
  // it has owned.
  const { record } = starting;
  return decision.as === "backup" && (record === undefined || isCopy(record)) ? decision : undefined;
}

/** What is on this host's disks is another host's VM. */
function isCopy({ handedOver, images }: OwnRecord): boolean {
  return images !== "owner" || handedOver === true;
}

/** The arbiter's word to a host that asked to start. */
export function askedToStart({ generation, granted }: Verdict): StartUp {
  if (granted) return { as: "primary", generation, why: "the backup has not asked for the VM" };
  return { as: "backup", generation, why: `the VM was given to the other host as generation ${generation}` };
}

const NEVER_HAD =
  'and this host has no record of ever having had it. To make it the backup of that host, set "role: backup" here: its disks are overwritten then. If that host is lost for good, do the same, and give the order start-here';
const FORGOTTEN =
  'but has no record of what became of it: its disks may be blank or old. Bring its state file back; or set "role: backup" here, and give the other host the order start-here if the VM does not run there. If another host has this name, too, give each its own (host:)';

/** @returns ", on …", or nothing where the claim does not tell */
function atTime({ at }: Claim): string {
  return at === undefined ? "" : `, on ${at}`;
}

function describe({ handedOver, images }: OwnRecord): string {
  if (handedOver === true) return "what was left when the VM was given to the other host";
  return images === "syncing" ? "a copy that was never finished" : "a copy of the other host's";
}
