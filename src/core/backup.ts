/**
 * The backup's half of the protocol, pure.
 *
 *   waiting → filling → armed → arbitrating ─ granted → recovering → running
 *      ↖────────┴─────────┘ goodbye     └─ denied → stood-down
 *
 * Armed means: a whole checkpoint is held, so this host could carry on. Only then is losing the primary a reason to ask.
 */
import { IllegalTransition, InvariantBroken, type Step } from "./transition.ts";
import type { EpochId, Generation } from "./words.ts";

export type BackupState =
  /** No primary. */
  | { readonly phase: "waiting"; readonly generation: Generation }
  /** A first pass is coming in. The images are no whole checkpoint. */
  | { readonly phase: "filling"; readonly generation: Generation }
  | (Holding & { readonly phase: "armed" })
  | (Holding & { readonly phase: "arbitrating" })
  /** The VM is ours. The last acknowledged checkpoint is committed, then the standby runs. */
  | (Holding & { readonly phase: "recovering"; readonly loading: boolean })
  | { readonly phase: "running"; readonly generation: Generation }
  /** The VM is not ours, or the standby could not run it; `reason` says which. */
  | { readonly phase: "stood-down"; readonly generation: Generation; readonly reason: string };

interface Holding {
  readonly generation: Generation;
  /** The newest checkpoint that is whole in memory, and acknowledged. */
  readonly acked: EpochId;
  /** The newest checkpoint that is in the images; -1 while checkpoint 0 is not. */
  readonly committed: EpochId;
}

export type BackupEvent =
  | { readonly type: "session-opened"; readonly generation: Generation }
  /** Every byte of the checkpoint is in staging, and the sums are right. */
  | { readonly type: "checkpoint-whole"; readonly epoch: EpochId }
  | { readonly type: "committed"; readonly epoch: EpochId }
  | { readonly type: "goodbye" }
  | { readonly type: "primary-lost"; readonly reason: string }
  | { readonly type: "verdict"; readonly granted: boolean; readonly generation: Generation }
  | { readonly type: "standby-runs" }
  | { readonly type: "standby-failed"; readonly reason: string };

export type BackupEffect =
  /** Only once the checkpoint is whole in memory. */
  | { readonly type: "ack"; readonly epoch: EpochId }
  /** Put checkpoint `epoch` into the images, after all earlier ones (I2). */
  | { readonly type: "commit"; readonly epoch: EpochId }
  | { readonly type: "drop-incomplete" }
  /** The images mean nothing any more: drop every checkpoint, committed or not. */
  | { readonly type: "forget" }
  | { readonly type: "goodbye-ok" }
  | { readonly type: "close-link" }
  | { readonly type: "ask-arbiter"; readonly generation: Generation }
  /** Tell the old primary, should it still hear us, that it must stop. Then close the link. */
  | { readonly type: "takeover"; readonly generation: Generation }
  /** Only once checkpoint `epoch`, the last acknowledged one, is committed (I2), and after the arbiter's word (I3). */
  | { readonly type: "run-standby"; readonly epoch: EpochId }
  | { readonly type: "report"; readonly level: "info" | "warn" | "error"; readonly text: string };

type BackupStep = Step<BackupState, BackupEffect>;

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
      return stay(state);
    default:
      return illegal(state, event);
  }
}

function fromFilling(state: BackupState & { phase: "filling" }, event: BackupEvent): BackupStep {
  const { generation } = state;
  switch (event.type) {
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

function fromArmed(state: BackupState & { phase: "armed" }, event: BackupEvent): BackupStep {
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
    case "primary-lost":
      return {
        state: { ...state, phase: "arbitrating" },
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

function fromArbitrating(state: BackupState & { phase: "arbitrating" }, event: BackupEvent): BackupStep {
  switch (event.type) {
    case "committed":
      return stay({ ...state, committed: commitInOrder(state, event.epoch) });
    case "verdict":
      if (!event.granted) {
        const reason = "the arbiter has given the VM to the primary";
        return {
          state: { phase: "stood-down", generation: event.generation, reason },
          effects: [{ type: "close-link" }, warn(reason)],
        };
      }
      return recover(
        { ...state, phase: "recovering", generation: event.generation, loading: false },
        { type: "takeover", generation: event.generation },
      );
    case "primary-lost":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

function fromRecovering(state: BackupState & { phase: "recovering" }, event: BackupEvent): BackupStep {
  switch (event.type) {
    case "committed":
      return recover({ ...state, committed: commitInOrder(state, event.epoch) });
    case "standby-runs":
      return {
        state: { phase: "running", generation: state.generation },
        effects: [warn(`the VM runs here now, from checkpoint ${state.acked}, without a backup`)],
      };
    case "standby-failed":
      return {
        state: { phase: "stood-down", generation: state.generation, reason: event.reason },
        effects: [
          { type: "report", level: "error", text: `the standby could not run the VM: ${event.reason}` },
        ],
      };
    case "primary-lost":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

/** Runs the standby as soon as the images are at the last acknowledged checkpoint. */
function recover(state: BackupState & { phase: "recovering" }, ...first: BackupEffect[]): BackupStep {
  if (state.committed < state.acked || state.loading) return { state, effects: first };
  return {
    state: { ...state, loading: true },
    effects: [...first, { type: "run-standby", epoch: state.acked }],
  };
}

function commitInOrder(state: Holding, epoch: EpochId): EpochId {
  if (epoch !== state.committed + 1 || epoch > state.acked)
    throw new InvariantBroken(
      "I2",
      `checkpoint ${epoch} was committed after ${state.committed}, with ${state.acked} acknowledged`,
    );
  return epoch;
}

function stay(state: BackupState): BackupStep {
  return { state, effects: [] };
}

function illegal(state: BackupState, event: BackupEvent): never {
  throw new IllegalTransition("backup", state.phase, event.type);
}

function info(text: string): BackupEffect {
  return { type: "report", level: "info", text };
}

function warn(text: string): BackupEffect {
  return { type: "report", level: "warn", text };
}
