/**
 * The planned switchover at the primary. The VM is paused at a checkpoint that the backup has acknowledged,
 * all of whose output is released: nothing can be lost, wherever it runs on. What must not happen is that it
 * runs twice, or nowhere.
 */
import { type PacerSettings, startPacing } from "./pacer.ts";
import type { HandingOverState, PrimaryEvent, ProtectedState } from "./primary-protocol.ts";
import { backupUnable, failure, illegal, leaving, type PrimaryStep, stay } from "./primary-step.ts";
import { InvariantBroken, info, warn } from "./transition.ts";
import type { Milliseconds } from "./words.ts";

/** The VM is held at its last checkpoint, and that is acknowledged. */
export function handOver({ generation, acked }: ProtectedState): PrimaryStep {
  return {
    state: { phase: "handing-over", generation, acked, held: true, leaveBecause: undefined },
    effects: [
      { type: "send-handover", epoch: acked },
      info(`the VM is paused at checkpoint ${acked}; the backup is asked to run it`),
    ],
  };
}

export function fromHandingOver(
  state: HandingOverState,
  event: PrimaryEvent,
  now: Milliseconds,
  settings: PacerSettings,
): PrimaryStep {
  switch (event.type) {
    case "handover-refused":
      return handoverRefused(state, event, now, settings);
    case "unable":
      return backupUnable(state.generation, state.held, event.reason);
    case "link-lost":
      return {
        state: {
          phase: "arbitrating",
          generation: state.generation,
          acked: state.acked,
          proceedWhenCaptured: false,
          // The backup may be running the VM: ours stays paused until the arbiter has ruled that out.
          proceedWhenGranted: state.held,
          planned: true,
        },
        effects: [
          warn(`the backup was lost in the handover: ${event.reason}. The VM stays paused`),
          { type: "close-link" },
          { type: "ask-arbiter", generation: state.generation },
        ],
      };
    case "capture-failed":
      return stay({ ...state, held: false, leaveBecause: failure(event) });
    case "output-failed":
    case "disk-failed":
      return stay({ ...state, leaveBecause: failure(event) });
    case "acked":
      throw new InvariantBroken("I1", `ack ${event.epoch} after ack ${state.acked}, the last one`);
    case "stop-asked":
    case "hold-asked":
      return { state, effects: [warn("the VM is being handed over; that must come to its end first")] };
    case "proceed-asked":
    case "switchover-asked":
    case "heard-late":
    case "sent":
    case "tick":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

function handoverRefused(
  state: HandingOverState,
  { reason, stoodDown, generation }: PrimaryEvent & { type: "handover-refused" },
  now: Milliseconds,
  settings: PacerSettings,
): PrimaryStep {
  const { acked, held, leaveBecause } = state;
  if (stoodDown)
    return {
      // The backup has won this generation, perhaps, and has given it up to us.
      state: { phase: "ending", generation: Math.max(state.generation, generation) },
      effects: [
        ...(held ? [{ type: "proceed" } as const] : []),
        { type: "release-all" },
        { type: "end-capture" },
        { type: "close-link" },
        warn(`the backup could not run the VM: ${reason}. It runs on here, without a backup`),
      ],
    };
  if (leaveBecause !== undefined) return leaving({ ...state, releaseFrom: 0 }, held, leaveBecause);
  return {
    state: {
      phase: "protected",
      generation: state.generation,
      running: acked + 1,
      acked,
      capture: "idle",
      capturedMs: now,
      pacer: { ...startPacing(now, settings), sent: acked },
      holdAt: undefined,
      switchover: false,
      leaveBecause: undefined,
      releaseFrom: 0,
    },
    effects: [
      { type: "proceed" },
      warn(`the backup did not take the VM: ${reason}. It runs on here, protected`),
    ],
  };
}
