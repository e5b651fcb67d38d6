/**
 * The backup's half of the protocol, pure.
 *
 *   waiting → filling → armed → arbitrating ─ granted → recovering → running
 *      ↖────────┴─────────┘ goodbye     └─ denied → stood-down
 *
 * Armed means: a whole checkpoint is held, so this host could carry on. Only then is losing the primary a
 * reason to ask; or the primary's own wish. What follows the question is in backup-takeover.ts.
 */
import type { ArmedState, BackupEffect, BackupEvent, BackupState } from "./backup-protocol.ts";
import { type BackupStep, commitInOrder, illegal, stay } from "./backup-step.ts";
import { fromArbitrating, fromRecovering } from "./backup-takeover.ts";
import { error, InvariantBroken, info, warn } from "./transition.ts";
import type { Generation } from "./words.ts";

export type { BackupEffect, BackupEvent, BackupState } from "./backup-protocol.ts";

export function startBackup(generation: Generation): BackupState {
  return { phase: "waiting", generation };
}

export function stepBackup(state: BackupState, event: BackupEvent): BackupStep {
  switch (state.phase) {
    case "waiting":
      return fromWaiting(state, event);
    case "filling":
      return fromFilling(state, event);
    case "armed":
      return fromArmed(state, event);
    case "arbitrating":
      return fromArbitrating(state, event);
    case "recovering":
      return fromRecovering(state, event);
    case "running":
    case "stood-down":
      if (event.type === "session-opened") return illegal(state, event);
      return stay(state);
  }
}

function fromWaiting(state: BackupState & { phase: "waiting" }, event: BackupEvent): BackupStep {
  switch (event.type) {
    case "session-opened":
      if (event.generation < state.generation)
        return {
          state,
          effects: [
            warn(`a primary of generation ${event.generation} was sent away; this is ${state.generation}`),
            { type: "close-link" },
          ],
        };
      return {
        state: { phase: "filling", generation: event.generation },
        effects: [info("a primary has come; its first pass begins")],
      };
    case "primary-lost":
    case "commit-failed":
    case "handover-expired":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

function fromFilling(state: BackupState & { phase: "filling" }, event: BackupEvent): BackupStep {
  const { generation } = state;
  switch (event.type) {
    case "handover-asked":
      return refuseHandover(state, "no whole checkpoint is here yet");
    case "commit-failed":
      return unable(generation, event.reason);
    case "handover-expired":
      return stay(state);
    case "checkpoint-whole":
      if (event.epoch !== 0) throw new InvariantBroken("I2", `checkpoint ${event.epoch} before checkpoint 0`);
      return {
        state: { phase: "armed", generation, acked: 0, committed: -1 },
        effects: [
          { type: "ack", epoch: 0 },
          { type: "commit", epoch: 0 },
          info("first pass is whole: this host could carry on from here"),
        ],
      };
    case "goodbye":
      return {
        state: { phase: "waiting", generation },
        effects: [{ type: "forget" }, { type: "goodbye-ok" }],
      };
    case "primary-lost":
      return {
        state: { phase: "waiting", generation },
        effects: [
          { type: "forget" },
          { type: "close-link" },
          warn(`the first pass was broken off: ${event.reason}`),
        ],
      };
    default:
      return illegal(state, event);
  }
}

function fromArmed(state: ArmedState, event: BackupEvent): BackupStep {
  switch (event.type) {
    case "checkpoint-whole":
      if (event.epoch !== state.acked + 1)
        throw new InvariantBroken("I2", `checkpoint ${event.epoch} after checkpoint ${state.acked}`);
      return {
        state: { ...state, acked: event.epoch },
        effects: [
          { type: "ack", epoch: event.epoch },
          { type: "commit", epoch: event.epoch },
        ],
      };
    case "committed":
      return stay({ ...state, committed: commitInOrder(state, event.epoch) });
    case "goodbye":
      return {
        state: { phase: "waiting", generation: state.generation },
        effects: [
          { type: "forget" },
          { type: "goodbye-ok" },
          info("the primary ended the protection; standing by for the next"),
        ],
      };
    case "handover-asked":
      if (event.epoch !== state.acked)
        return refuseHandover(state, `checkpoint ${state.acked} is the last one here, not ${event.epoch}`);
      return {
        state: { ...state, phase: "arbitrating", planned: true },
        effects: [
          info(`the primary hands the VM over at checkpoint ${event.epoch}`),
          { type: "drop-incomplete" },
          { type: "ask-arbiter", generation: state.generation },
        ],
      };
    case "commit-failed":
      return unable(state.generation, event.reason);
    case "handover-expired":
      return stay(state);
    case "primary-lost":
      return {
        state: { ...state, phase: "arbitrating", planned: false },
        effects: [
          warn(`the primary is lost: ${event.reason}`),
          { type: "drop-incomplete" },
          { type: "ask-arbiter", generation: state.generation },
        ],
      };
    default:
      return illegal(state, event);
  }
}

/** As if it had not been asked: this host stays the backup. */
function refuseHandover(state: BackupState, reason: string): BackupStep {
  const refusal: BackupEffect = { type: "refuse-handover", reason, stoodDown: false };
  return { state, effects: [refusal, warn(`the primary wants to hand the VM over: ${reason}`)] };
}

/** What the images cannot take is lost to this host: it is no backup any more, and the primary must know. */
function unable(generation: Generation, reason: string): BackupStep {
  return {
    state: { phase: "waiting", generation },
    effects: [
      { type: "unable", reason },
      { type: "forget" },
      error(`this host can no longer take over: ${reason}`),
    ],
  };
}
