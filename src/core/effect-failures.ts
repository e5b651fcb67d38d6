/**
 * What is done when an effect cannot be carried out. It depends on the effect and on the phase, and not on
 * whether the effect failed at once or later. The rule behind the table: a host with the only copy of a VM
 * never ends it because of an error beside it (I5). docs/specs/protocol.md, "When an effect fails", is this
 * table; a test compares the two.
 */
import type { BackupEffect, BackupState } from "./backup-protocol.ts";
import type { PrimaryEffect, PrimaryState } from "./primary-protocol.ts";

/**
 * Beside the effects: `step`, an event that the core refuses; `stepped`, what the guardian does after each
 * event; `uncaught`, an exception that nobody has caught, anywhere in the process.
 */
type Beside = "step" | "stepped" | "uncaught";
export type PrimaryDuty = PrimaryEffect["type"] | Beside;
export type BackupDuty = BackupEffect["type"] | Beside;

/** Of every remedy the error is told, in the log and on the control socket. */
export type PrimaryRemedy =
  /** No more than that. */
  | "tell"
  /** Tried again until it is done, or is not wanted any more. An alarm stands meanwhile. */
  | "again"
  /** A part of protection has failed: `capture-failed` or `output-failed`, unless QEMU is dead. */
  | "capture-failed"
  | "output-failed"
  /** The link is closed, and `link-lost` follows: the arbiter decides who goes on. */
  | "link-lost"
  /** Only where the backup can take over: the VM goes on there. */
  | "kill-vm";

export type BackupRemedy =
  | "tell"
  | "again"
  /** The link is closed, and `primary-lost` follows. */
  | "primary-lost"
  | "commit-failed"
  /** The primary keeps the VM, which it holds paused: this host promises not to run it. */
  | "standby-failed"
  /** The standby is ended, and this host becomes a backup with another one. */
  | "begin-anew";

const PRIMARY: Readonly<Record<PrimaryDuty, PrimaryRemedy>> = {
  connect: "link-lost",
  "start-capture": "capture-failed",
  "begin-epochs": "capture-failed",
  capture: "capture-failed",
  proceed: "capture-failed",
  release: "output-failed",
  "release-all": "again",
  "end-capture": "again",
  "send-goodbye": "link-lost",
  "send-handover": "link-lost",
  "close-link": "again",
  "ask-arbiter": "again",
  "kill-vm": "again",
  "remind-hypervisor": "tell",
  wake: "tell",
  report: "tell",
  step: "tell",
  stepped: "again",
  uncaught: "capture-failed",
};

const BACKUP: Readonly<Record<BackupDuty, BackupRemedy>> = {
  ack: "primary-lost",
  commit: "commit-failed",
  "commit-again": "again",
  "drop-incomplete": "again",
  forget: "begin-anew",
  "goodbye-ok": "primary-lost",
  "close-link": "again",
  "ask-arbiter": "again",
  takeover: "primary-lost",
  "refuse-handover": "primary-lost",
  unable: "primary-lost",
  "run-standby": "again",
  report: "tell",
  step: "begin-anew",
  stepped: "again",
  uncaught: "begin-anew",
};

/** In these phases an effect is still wanted that was ordered and failed; of others it is always. */
const WANTED_AT_PRIMARY: Readonly<Partial<Record<PrimaryDuty, readonly PrimaryState["phase"][]>>> = {
  connect: ["connecting"],
  "release-all": ["ending"],
  "end-capture": ["ending"],
  "send-goodbye": ["leaving"],
  "send-handover": ["handing-over"],
  "close-link": ["unprotected", "arbitrating", "ending"],
  "ask-arbiter": ["arbitrating"],
  "kill-vm": ["superseded"],
};
const WANTED_AT_BACKUP: Readonly<Partial<Record<BackupDuty, readonly BackupState["phase"][]>>> = {
  ack: ["armed"],
  commit: ["armed", "arbitrating", "recovering"],
  "commit-again": ["arbitrating", "recovering"],
  "goodbye-ok": ["waiting"],
  unable: ["waiting"],
  "refuse-handover": ["filling", "armed", "stood-down"],
  takeover: ["recovering", "running"],
  "drop-incomplete": ["arbitrating"],
  forget: ["waiting"],
  "close-link": ["waiting", "stood-down"],
  "ask-arbiter": ["arbitrating"],
  "run-standby": ["recovering"],
};

/** @param broken the error is a broken invariant (InvariantBroken): nothing may go on as it did */
export function primaryRemedy(duty: PrimaryDuty, broken: boolean, state: PrimaryState): PrimaryRemedy {
  const { phase } = state;
  if (broken || duty === "step") {
    // Nothing is released any more, and the VM goes on at the backup, as if this host had crashed (I4).
    if (phase === "protected") return state.acked >= 0 ? "kill-vm" : "capture-failed";
    // The backup may have stood down, or not: who has the VM is the arbiter's to say.
    if (phase === "leaving" || phase === "handing-over") return "link-lost";
  }
  if (WANTED_AT_PRIMARY[duty]?.includes(phase) === false) return "tell";
  const remedy = PRIMARY[duty];
  const isPart = remedy === "capture-failed" || remedy === "output-failed";
  if (isPart && !["syncing", "protected", "handing-over"].includes(phase)) return "tell";
  return remedy;
}

/** @param broken the error is a broken invariant (InvariantBroken) */
export function backupRemedy(duty: BackupDuty, broken: boolean, state: BackupState): BackupRemedy {
  const { phase } = state;
  const remedy = broken && duty !== "stepped" ? "begin-anew" : BACKUP[duty];
  if (WANTED_AT_BACKUP[duty]?.includes(phase) === false) return "tell";
  if (remedy !== "begin-anew") return remedy;
  switch (phase) {
    case "waiting":
    case "filling":
      return remedy;
    case "armed":
      // What is acknowledged may be all that is left of the VM: it is kept, unless it is not what it is taken
      // for.
      return broken ? remedy : "primary-lost";
    case "arbitrating":
    case "recovering":
      // Of a lost primary's VM the only copy may be here.
      return state.planned ? "standby-failed" : duty === "run-standby" ? "again" : "tell";
    case "running":
    case "stood-down":
      return "tell";
  }
}
