/**
 * The backup on its way to running the VM, because the primary is lost or wants it so.
 *
 * In a planned switchover the primary keeps its copy, paused, until it hears TAKEOVER. So that is said only
 * when the VM runs here, and whatever keeps it from running is said, too: as a promise that this host will
 * not run it any more, whatever the arbiter has given it.
 */
import type { ArbitratingState, BackupEffect, BackupEvent, RecoveringState } from "./backup-protocol.ts";
import { type BackupStep, commitInOrder, illegal, stay } from "./backup-step.ts";
import { error, type Report, warn } from "./transition.ts";
import type { Generation } from "./words.ts";

export function fromArbitrating(state: ArbitratingState, event: BackupEvent): BackupStep {
  switch (event.type) {
    case "committed":
      return stay({ ...state, committed: commitInOrder(state, event.epoch) });
    case "verdict":
      return event.granted ? granted(state, event.generation) : denied(state, event.generation);
    case "handover-expired":
      // Of a lost primary nobody waits for us: however long it takes, the arbiter's word decides.
      return state.planned ? standDown(state, state.generation + 1, error, NO_VERDICT) : stay(state);
    case "commit-failed":
      return commitFailed(state, state.generation + 1, event.reason);
    case "standby-failed":
      return standDown(state, state.generation + 1, error, `the standby cannot run the VM: ${event.reason}`);
    case "primary-lost":
      if (!state.planned) return stay(state);
      return {
        state: { ...state, planned: false },
        effects: [lostInHandover(event.reason)],
      };
    default:
      return illegal(state, event);
  }
}

const NO_VERDICT = "the arbiter has not answered in time";

function lostInHandover(reason: string): Report {
  return warn(`the primary was lost in the handover: ${reason}`);
}

function granted(state: ArbitratingState, generation: Generation): BackupStep {
  const { acked, planned } = state;
  const next: RecoveringState = { ...state, phase: "recovering", generation };
  return recover(next, ...(planned ? [] : [{ type: "takeover", generation, epoch: acked } as const]));
}

function denied(state: ArbitratingState, generation: Generation): BackupStep {
  return standDown(state, generation, warn, "the arbiter has given the VM to the primary");
}

export function fromRecovering(state: RecoveringState, event: BackupEvent): BackupStep {
  const { generation, acked, planned } = state;
  switch (event.type) {
    case "committed":
      return recover({ ...state, committed: commitInOrder(state, event.epoch) });
    case "standby-runs":
      return {
        state: { phase: "running", generation },
        effects: [
          ...(planned ? [{ type: "takeover", generation, epoch: acked } as const] : []),
          warn(`the VM runs here now, from checkpoint ${acked}, without a backup`),
        ],
      };
    case "standby-failed":
      return standDown(state, generation, error, `the standby could not run the VM: ${event.reason}`);
    case "commit-failed":
      return commitFailed(state, generation, event.reason);
    case "primary-lost":
      if (!planned) return stay(state);
      // The old copy has lost its claim: this one is the only one now, and is treated as that.
      return {
        state: { ...state, planned: false },
        effects: [{ type: "takeover", generation, epoch: acked }, lostInHandover(event.reason)],
      };
    case "handover-expired":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

/** Runs the standby as soon as the images are at the last acknowledged checkpoint. */
function recover(state: RecoveringState, ...first: BackupEffect[]): BackupStep {
  if (state.committed < state.acked) return { state, effects: first };
  return { state, effects: [...first, { type: "run-standby", epoch: state.acked }] };
}

/**
 * A primary that waits, with the VM paused, keeps it. Of a lost one nobody else may have it: the images are
 * tried again until they take the rest.
 */
function commitFailed(
  state: ArbitratingState | RecoveringState,
  generation: Generation,
  reason: string,
): BackupStep {
  if (state.planned) return standDown(state, generation, error, `the images are not whole: ${reason}`);
  return { state, effects: [{ type: "commit-again", reason }] };
}

/**
 * @param generation one that this host may have been given by now, whether it has heard of that or not: the
 * primary goes on with it
 */
function standDown(
  { planned }: ArbitratingState | RecoveringState,
  generation: Generation,
  report: (text: string) => Report,
  reason: string,
): BackupStep {
  return {
    state: { phase: "stood-down", generation, reason },
    effects: [
      planned ? { type: "refuse-handover", reason, stoodDown: true } : { type: "close-link" },
      report(reason),
    ],
  };
}
