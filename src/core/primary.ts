/**
 * The primary's half of the protocol, pure: `step(state, event, now)` gives the next state and the effects to carry out.
 *
 *   unprotected → connecting → syncing → protected → leaving ─────────→ ending → unprotected
 *                                            └─→ arbitrating ─ granted ──↗
 *                                                    └─ denied → superseded
 *
 * Output is held from epoch 1 on, which is when the backup may first be able to take over, until the backup has disarmed
 * itself (`goodbye-ok`) or the arbiter has ruled it out.
 */
import {
  type Pace,
  type PacerSettings,
  pace,
  paceAcked,
  paceCapture,
  paceSent,
  startPacing,
} from "./pacer.ts";
import type { PrimaryEffect, PrimaryEvent, PrimaryState, ProtectedState } from "./primary-protocol.ts";
import { IllegalTransition, InvariantBroken, type Step } from "./transition.ts";
import type { EpochId, Generation, Milliseconds } from "./words.ts";

/** QEMU's own timer asks for checkpoints; when it has been silent this long, it is reminded. */
const REMIND_AFTER_MS = 500;

type PrimaryStep = Step<PrimaryState, PrimaryEffect>;

export function startPrimary(generation: Generation): PrimaryState {
  return { phase: "unprotected", generation };
}

export function stepPrimary(
  state: PrimaryState,
  event: PrimaryEvent,
  now: Milliseconds,
  settings: PacerSettings,
): PrimaryStep {
  // Whoever else owns the VM, and in whatever state we are: it must not run here (I3).
  if (event.type === "takeover") return superseded(state, event.generation, "the backup has taken over");
  switch (state.phase) {
    case "unprotected":
      return fromUnprotected(state, event);
    case "connecting":
      return fromConnecting(state, event);
    case "syncing":
      return fromSyncing(state, event, now, settings);
    case "protected":
      return fromProtected(state, event, now, settings);
    case "leaving":
      return fromLeaving(state, event);
    case "arbitrating":
      return fromArbitrating(state, event);
    case "ending":
      return fromEnding(state, event);
    case "superseded":
      return stay(state);
  }
}

function fromUnprotected(state: PrimaryState & { phase: "unprotected" }, event: PrimaryEvent): PrimaryStep {
  switch (event.type) {
    case "protect-asked":
      return {
        state: { ...state, phase: "connecting" },
        effects: [{ type: "connect" }, info("protection asked for; connecting to the backup")],
      };
    case "tick":
    case "stop-asked":
    case "link-lost":
    case "sent":
    case "acked":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

function fromConnecting(state: PrimaryState & { phase: "connecting" }, event: PrimaryEvent): PrimaryStep {
  switch (event.type) {
    case "link-up":
      return {
        state: { ...state, phase: "syncing" },
        effects: [
          { type: "start-capture" },
          info("the backup has agreed; first pass begins, the VM runs on"),
        ],
      };
    case "link-lost":
      return {
        state: { ...state, phase: "unprotected" },
        effects: [warn(`no protection: ${event.reason}. The VM runs on, unprotected`)],
      };
    case "stop-asked":
      return {
        state: { ...state, phase: "unprotected" },
        effects: [{ type: "close-link" }, info("protection was given up before it began")],
      };
    case "tick":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

function fromSyncing(
  state: PrimaryState & { phase: "syncing" },
  event: PrimaryEvent,
  now: Milliseconds,
  settings: PacerSettings,
): PrimaryStep {
  const { generation } = state;
  const giveUp = (text: PrimaryEffect): PrimaryStep => ({
    state: { phase: "ending", generation },
    // The backup holds no whole checkpoint: closing the link tells it all it needs.
    effects: [{ type: "close-link" }, { type: "end-capture" }, text],
  });
  switch (event.type) {
    case "first-pass-done":
      return {
        state: {
          phase: "protected",
          generation,
          running: 1,
          acked: -1,
          capture: "idle",
          capturedMs: now,
          pacer: startPacing(now, settings),
          holdAt: undefined,
          leaveBecause: undefined,
        },
        effects: [{ type: "begin-epochs" }, info("first pass done; output is held from here on")],
      };
    case "link-lost":
      return giveUp(warn(`first pass broken off: ${event.reason}. The VM runs on, unprotected`));
    case "capture-failed":
    case "output-failed":
      return giveUp(warn(`${failure(event)}. The VM runs on, unprotected`));
    case "stop-asked":
      return giveUp(info("first pass broken off, as asked"));
    case "sent":
    case "tick":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

function fromProtected(
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
    case "sent":
      return maybeCapture({ ...state, pacer: paceSent(state.pacer, event.epoch) }, now, settings);
    case "acked":
      return acked(state, event.epoch, now, settings);
    case "hold-asked":
      return stay({ ...state, holdAt: event.atEpoch });
    case "proceed-asked":
      return proceedAsked(state, now);
    case "stop-asked":
      return leave(state, "protection was stopped, as asked");
    case "output-failed":
      return leave(state, failure(event));
    case "capture-failed":
      return leave({ ...state, capture: "idle" }, failure(event));
    case "link-lost":
      return {
        state: {
          phase: "arbitrating",
          generation: state.generation,
          acked: state.acked,
          proceedWhenCaptured: waitsToProceed(state),
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
  const hold = state.holdAt !== undefined && state.running >= state.holdAt;
  return {
    state: {
      ...state,
      capture: hold ? "capturing-to-hold" : "capturing",
      holdAt: hold ? undefined : state.holdAt,
      pacer: paceCapture(state.pacer, settings, state, now),
    },
    effects: [{ type: "capture", epoch: state.running, hold }],
  };
}

function captured(state: ProtectedState, { epoch }: { epoch: EpochId }, now: Milliseconds): PrimaryStep {
  if (!capturing(state) || epoch !== state.running)
    throw new InvariantBroken("I2", `checkpoint ${epoch} was captured while epoch ${state.running} ran`);
  const next: ProtectedState = {
    ...state,
    running: epoch + 1,
    capture: state.capture === "capturing-to-hold" ? "held" : "idle",
    capturedMs: now,
  };
  const proceed: PrimaryEffect[] = state.capture === "capturing-to-proceed" ? [{ type: "proceed" }] : [];
  const then = next.leaveBecause === undefined ? stay(next) : leave(next, next.leaveBecause);
  return { state: then.state, effects: [...proceed, ...then.effects] };
}

/** The VM need not be held any more, wherever that stands. */
function proceedAsked(asked: ProtectedState, now: Milliseconds): PrimaryStep {
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
  const more = maybeCapture({ ...state, acked: epoch, pacer }, now, settings);
  return { state: more.state, effects: [{ type: "release", upTo: epoch }, ...more.effects] };
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
  const { generation } = state;
  return {
    state: { phase: "leaving", generation, acked: state.acked },
    effects: [
      ...(state.capture === "held" ? [{ type: "proceed" } as const] : []),
      { type: "send-goodbye" },
      info(`${because}; waiting for the backup to stand down`),
    ],
  };
}

function fromLeaving(state: PrimaryState & { phase: "leaving" }, event: PrimaryEvent): PrimaryStep {
  const { generation } = state;
  switch (event.type) {
    case "goodbye-ok":
      return {
        state: { phase: "ending", generation },
        effects: [
          { type: "release-all" },
          { type: "end-capture" },
          { type: "close-link" },
          info("protection has ended; the VM runs on, unprotected"),
        ],
      };
    case "acked":
      return ackedLate(state, event.epoch);
    case "link-lost":
      return {
        state: { phase: "arbitrating", generation, acked: state.acked, proceedWhenCaptured: false },
        effects: [
          warn(`the backup was lost before it stood down: ${event.reason}`),
          { type: "close-link" },
          { type: "ask-arbiter", generation },
        ],
      };
    case "requested":
    case "sent":
    case "tick":
    case "stop-asked":
    case "capture-failed":
    case "output-failed":
    case "hold-asked":
    case "proceed-asked":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

function ackedLate(state: PrimaryState & { phase: "leaving" }, epoch: EpochId): PrimaryStep {
  if (epoch !== state.acked + 1) throw new InvariantBroken("I1", `ack ${epoch} after ack ${state.acked}`);
  return { state: { ...state, acked: epoch }, effects: [{ type: "release", upTo: epoch }] };
}

function fromArbitrating(state: PrimaryState & { phase: "arbitrating" }, event: PrimaryEvent): PrimaryStep {
  switch (event.type) {
    case "verdict":
      if (!event.granted)
        return superseded(state, event.generation, "the arbiter has given the VM to the backup");
      return {
        state: { phase: "ending", generation: event.generation },
        effects: [
          { type: "release-all" },
          { type: "end-capture" },
          warn("the VM runs on here, without a backup"),
        ],
      };
    case "captured":
      return {
        state: { ...state, proceedWhenCaptured: false },
        effects: state.proceedWhenCaptured ? [{ type: "proceed" }] : [],
      };
    case "requested":
    case "sent":
    case "acked":
    case "tick":
    case "link-lost":
    case "stop-asked":
    case "capture-failed":
    case "output-failed":
    case "goodbye-ok":
    case "hold-asked":
    case "proceed-asked":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

function fromEnding(state: PrimaryState & { phase: "ending" }, event: PrimaryEvent): PrimaryStep {
  switch (event.type) {
    case "capture-ended":
      return { state: { phase: "unprotected", generation: state.generation }, effects: [] };
    case "protect-asked":
      return illegal(state, event, "the last protection has not ended yet");
    default:
      return stay(state);
  }
}

function superseded(state: PrimaryState, generation: Generation, why: string): PrimaryStep {
  if (state.phase === "superseded") return stay(state);
  return {
    state: { phase: "superseded", generation },
    effects: [{ type: "kill-vm", reason: `${why} (generation ${generation})` }],
  };
}

function failure(event: PrimaryEvent & { type: "capture-failed" | "output-failed" }): string {
  return `${event.type === "capture-failed" ? "capture" : "holding output"} failed: ${event.reason}`;
}

function stay(state: PrimaryState): PrimaryStep {
  return { state, effects: [] };
}

function illegal(state: PrimaryState, event: PrimaryEvent, detail?: string): never {
  throw new IllegalTransition("primary", state.phase, event.type, detail);
}

function info(text: string): PrimaryEffect {
  return { type: "report", level: "info", text };
}

function warn(text: string): PrimaryEffect {
  return { type: "report", level: "warn", text };
}
