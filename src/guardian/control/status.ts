/** What `status` says in each role, field by field as docs/specs/control.md lists them. */
import { z } from "zod";
import type { BackupState } from "../../core/backup-protocol.ts";
import type { PrimaryState } from "../../core/primary-protocol.ts";
import { CONTROL_VERSION } from "./requests.ts";

export const primaryPhases = [
  "unprotected",
  "connecting",
  "syncing",
  "protected",
  "handing-over",
  "leaving",
  "arbitrating",
  "ending",
  "superseded",
] as const satisfies readonly PrimaryState["phase"][];

export const backupPhases = [
  "waiting",
  "filling",
  "armed",
  "arbitrating",
  "recovering",
  "running",
  "stood-down",
] as const satisfies readonly BackupState["phase"][];

const isoTime = z.iso.datetime();
/** Milliseconds of CLOCK_BOOTTIME, which all processes of a machine share. */
const bootTimeMs = z.number();
const bytes = z.number().nonnegative();

const witness = z.object({
  name: z.string(),
  /** Left out before it was asked for the first time. */
  reachable: z.boolean().exactOptional(),
  since: isoTime.exactOptional(),
});
export type WitnessStatus = Readonly<z.infer<typeof witness>>;

const path = z.object({
  /** Where it leads, or where it comes in. */
  address: z.string(),
  up: z.boolean(),
  /** Since when it has been so. Left out if it was never up in this session. */
  since: isoTime.exactOptional(),
  /** Whether what this host sends goes over it. */
  carries: z.boolean(),
});
export type PathStatus = Readonly<z.infer<typeof path>>;

const failover = z.object({
  /** The primary was lost, or has handed the VM over. */
  detectedAtMs: bootTimeMs,
  /** The arbiter has given the VM to this host. */
  grantedAtMs: bootTimeMs.exactOptional(),
  /** What the last checkpoint changed on the disks is in the images, and the VM can have them. */
  imagesFreeAtMs: bootTimeMs.exactOptional(),
  /** The standby has the VM's state, and waits for the word to run. */
  loadedAtMs: bootTimeMs.exactOptional(),
  runningAtMs: bootTimeMs.exactOptional(),
});
/** When things happened at failover. */
export type FailoverTimes = z.infer<typeof failover>;

const way = z.enum(["blank", "compare", "records"]);
const sync = z.object({
  disk: z.string(),
  way,
  totalBytes: bytes,
  doneBytes: bytes,
  sentBytes: bytes,
  wireBytes: bytes,
  bytesPerSecond: z.number(),
  /** Left out before there is a rate. */
  secondsLeft: z.number().exactOptional(),
});
/** A disk that is being brought into step. */
export type SyncProgress = Readonly<z.infer<typeof sync>>;

const syncDone = z.object({
  disk: z.string(),
  way,
  why: z.string(),
  seconds: z.number(),
  totalBytes: bytes,
  sentBytes: bytes,
  /** With what the VM wrote meanwhile, and what was asked of the backup. */
  wireBytes: bytes,
});
/** What the sync of a disk came to. */
export type SyncSummary = Readonly<z.infer<typeof syncDone>>;

const summary = z.object({
  last: z.number(),
  count: z.int(),
  p50: z.number(),
  p95: z.number(),
  p99: z.number(),
  max: z.number(),
});

const common = {
  version: z.literal(CONTROL_VERSION),
  vm: z.string(),
  witness,
};

const ofEither = {
  ...common,
  accelerator: z.enum(["kvm", "tcg"]),
  qemuVersion: z.string(),
  qemuPid: z.int(),
  generation: z.int(),
  /** The newest acknowledged checkpoint, where there is protection. */
  acked: z.int().exactOptional(),
  /** How long this guardian was kept from its work at most, since its start. */
  longestStallMs: z.number(),
  paths: z.array(path),
  failover: failover.exactOptional(),
  /** The core's state as it is, for looking at; not stable. */
  core: z.record(z.string(), z.unknown()),
};

const starting = z.object({
  ...common,
  role: z.literal("starting"),
  doing: z.string(),
});

const primary = z.object({
  ...ofEither,
  role: z.literal("primary"),
  phase: z.enum(primaryPhases),
  /** Name of the RAM block that is the guest's RAM. */
  ramBlock: z.string(),
  /** The file that holds the RAM of a VM that was taken over. */
  ramImage: z.string().exactOptional(),
  /** Only while the VM stands still, and not because of Remus. */
  standstill: z.object({ state: z.string(), since: isoTime }).exactOptional(),
  /** Whether a protection that is lost comes back by itself. */
  protectionWanted: z.boolean(),
  /** Output that waits, all NICs. */
  heldBytes: bytes,
  droppedFrames: z.int(),
  stagingBytes: bytes,
  /** Only while a disk is brought into step. */
  sync: sync.exactOptional(),
  syncs: z.array(syncDone),
  /** Since protection began, or `reset-statistics`. */
  checkpoints: z.int(),
  checkpointsPerSecond: z.number(),
  seconds: z.number(),
  /** QMP STOP to RESUME. */
  pauseMs: summary,
  /** Entries per checkpoint, zero pages counted. */
  dirtyPages: summary,
  bytesOnWire: bytes,
});
export type PrimaryStatus = Readonly<z.infer<typeof primary>>;

const backup = z.object({
  ...ofEither,
  role: z.literal("backup"),
  phase: z.enum(backupPhases),
  /** The newest checkpoint that is in the images. */
  committed: z.int().exactOptional(),
  /** Why it has stood down. */
  reason: z.string().exactOptional(),
  ramImage: z.string(),
  /** Checkpoints that are acknowledged and not yet committed. */
  waitingBytes: bytes,
});
export type BackupStatus = Readonly<z.infer<typeof backup>>;

export const status = z.discriminatedUnion("role", [starting, primary, backup]);
export type Status = Readonly<z.infer<typeof status>>;
