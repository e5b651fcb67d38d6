/**
 * The primary while the VM is protected: epoch after epoch, until protection ends, the backup is lost, or the
 * VM is handed over.
 */
import {
  type Pace,
  type PacerSettings,
  pace,
  paceAcked,
  paceCapture,
  paceCaptured,
  paceSent,
} from "./pacer.ts";
import { handOver } from "./primary-handover.ts";
import type { PrimaryEffect, PrimaryEvent, ProtectedState } from "./primary-protocol.ts";
import { backupUnable, failure, illegal, leaving, type PrimaryStep, stay } from "./primary-step.ts";
import { InvariantBroken, info, warn } from "./transition.ts";
import type { EpochId, Milliseconds } from "./words.ts";

/** QEMU's own timer asks for checkpoints; when it has been silent this long, it is reminded. */
const REMIND_AFTER_MS = 500;

export function fromProtected(
  state: ProtectedState,
  event: PrimaryEvent,
  now: Milliseconds,
  settings: PacerSettings,
): PrimaryStep {
  switch (event.type) {
    case "requested":
      if (state.capture !== "idle") return illegal(state, event, `capture is ${state.capture}`);
      return maybeCapture({ ...state, capture: "requested" }, now, settings);
    case "tick":
      if (state.capture === "idle" && now - state.capturedMs > REMIND_AFTER_MS)
        return { state: { ...state, capturedMs: now }, effects: [{ type: "remind-hypervisor" }] };
      return maybeCapture(state, now, settings);
    case "captured":
      return captured(state, event, now);
    case "capture-put-off":
      return capturing(state) ? putOff(state) : illegal(state, event, `capture is ${state.capture}`);
    case "sent":
      return maybeCapture({ ...state, pacer: paceSent(state.pacer, event.epoch) }, now, settings);
    case "acked":
      return acked(state, event.epoch, now, settings);
    case "heard-late":
      return stay({ ...state, releaseFrom: state.running });
    case "hold-asked":
      if (state.switchover) return refused(state, "the VM is about to be handed over to the backup");
      return stay({ ...state, holdAt: event.atEpoch });
    case "switchover-asked":
      return switchoverAsked(state);
    case "proceed-asked":
      return proceedAsked(state, now);
    case "stop-asked":
      return leave(state, event.because ?? "protection was stopped, as asked");
    case "output-failed":
    case "disk-failed":
      return leave(state, failure(event));
    case "capture-failed":
      // Nobody is there any more to hear a `proceed`.
      return leaving(state, false, failure(event));
    case "unable":
      return backupUnable(state.generation, state.capture === "held", event.reason);
    case "link-lost":
      return {
        state: {
          phase: "arbitrating",
          generation: state.generation,
          acked: state.acked,
          proceedWhenCaptured: waitsToProceed(state),
          proceedWhenGranted: false,
          planned: false,
        },
        effects: [
          warn(`the backup is lost: ${event.reason}`),
          ...(state.capture === "held" ? [{ type: "proceed" } as const] : []),
          { type: "close-link" },
          { type: "ask-arbiter", generation: state.generation },
        ],
      };
    default:
      return illegal(state, event);
  }
}

function maybeCapture(state: ProtectedState, now: Milliseconds, settings: PacerSettings): PrimaryStep {
  if (state.capture !== "requested") return stay(state);
  const decision: Pace = pace(state.pacer, settings, state, now);
  if (decision.kind === "at") return { state, effects: [{ type: "wake", atMs: decision.atMs }] };
  if (decision.kind === "blocked") return stay(state);
  const hold = state.switchover || state.running >= (state.holdAt ?? Number.POSITIVE_INFINITY);
  return {
    state: {
      ...state,
      capture: hold ? "capturing-to-hold" : "capturing",
      pacer: paceCapture(state.pacer, settings, state, now),
    },
    effects: [{ type: "capture", epoch: state.running, hold }],
  };
}

function captured(
  state: ProtectedState,
  { bytes, epoch }: { readonly bytes: number; readonly epoch: EpochId },
  now: Milliseconds,
): PrimaryStep {
  if (!capturing(state) || epoch !== state.running)
    throw new InvariantBroken("I2", `checkpoint ${epoch} was captured while epoch ${state.running} ran`);
  const next: ProtectedState = {
    ...state,
    running: epoch + 1,
    capture: state.capture === "capturing-to-hold" ? "held" : "idle",
    capturedMs: now,
    pacer: paceCaptured(state.pacer, epoch, bytes),
  };
  const proceed: PrimaryEffect[] = state.capture === "capturing-to-proceed" ? [{ type: "proceed" }] : [];
  const then = captureOver(next);
  return { state: then.state, effects: [...proceed, ...then.effects] };
}

/**
 * As if it had not been ordered: whoever waits for the VM to be held waits on, and whoever waits for the end
 * of the checkpoint need not.
 */
function putOff(state: ProtectedState): PrimaryStep {
  return captureOver({ ...state, capture: "idle" });
}

function captureOver(state: ProtectedState): PrimaryStep {
  return state.leaveBecause === undefined ? stay(state) : leave(state, state.leaveBecause);
}

/** The VM need not be held any more, wherever that stands. */
function proceedAsked(asked: ProtectedState, now: Milliseconds): PrimaryStep {
  // With a switchover under way it is not somebody's hold that keeps the VM paused.
  if (asked.switchover) return stay(asked);
  const state: ProtectedState = { ...asked, holdAt: undefined };
  switch (state.capture) {
    case "held":
      return { state: { ...state, capture: "idle", capturedMs: now }, effects: [{ type: "proceed" }] };
    case "capturing-to-hold":
      return stay({ ...state, capture: "capturing-to-proceed" });
    default:
      return stay(state);
  }
}

/**
 * The VM shall run on the backup's host: it is paused at its next checkpoint, and handed over when that is
 * acknowledged. Somebody who holds the VM looks at it: then not.
 */
function switchoverAsked(state: ProtectedState): PrimaryStep {
  if (state.switchover) return stay(state);
  if (state.leaveBecause !== undefined)
    return refused(state, `protection is about to end: ${state.leaveBecause}`);
  if (state.holdAt !== undefined)
    return refused(state, "the VM is held, or about to be; let it proceed first");
  return {
    state: { ...state, switchover: true },
    effects: [info("switchover asked for: the next checkpoint is the last one here")],
  };
}

function refused(state: ProtectedState, why: string): PrimaryStep {
  return { state, effects: [warn(`this cannot be done now: ${why}`)] };
}

function acked(
  state: ProtectedState,
  epoch: EpochId,
  now: Milliseconds,
  settings: PacerSettings,
): PrimaryStep {
  if (epoch !== state.acked + 1 || epoch >= state.running)
    throw new InvariantBroken(
      "I1",
      `ack ${epoch} while ${state.acked} was the last one acknowledged and epoch ${state.running} runs`,
    );
  const pacer = paceAcked(state.pacer, epoch, now);
  const next: ProtectedState = { ...state, acked: epoch, pacer };
  const last = next.switchover && next.capture === "held" && epoch === next.running - 1;
  if (epoch < next.releaseFrom) return last ? giveUpSwitchover(next, now) : maybeCapture(next, now, settings);
  const more = last ? handOver(next) : maybeCapture(next, now, settings);
  return { state: more.state, effects: [{ type: "release", upTo: epoch }, ...more.effects] };
}

/**
 * Whether the backup is still one, only a further checkpoint can show; so the VM cannot stay paused at this
 * one.
 */
function giveUpSwitchover(state: ProtectedState, now: Milliseconds): PrimaryStep {
  return {
    state: { ...state, capture: "idle", capturedMs: now, switchover: false },
    effects: [{ type: "proceed" }, warn("the backup was not heard for too long: the switchover is given up")],
  };
}

function capturing({ capture }: Pick<ProtectedState, "capture">): boolean {
  return capture === "capturing" || waitsToProceed({ capture });
}

/** The capture thread will wait for a `proceed` after the checkpoint that it takes now. */
function waitsToProceed({ capture }: Pick<ProtectedState, "capture">): boolean {
  return capture === "capturing-to-hold" || capture === "capturing-to-proceed";
}

/** Protection is to end. A capture under way is finished first: QEMU must not be left inside the pause. */
function leave(state: ProtectedState, because: string): PrimaryStep {
  if (capturing(state)) return stay({ ...state, leaveBecause: because });
  return leaving(state, state.capture === "held", because);
}
