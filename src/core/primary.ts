/**
 * The primary's half of the protocol, pure: `step(state, event, now)` gives the next state and the effects to
 * carry out.
 *
 *   unprotected → connecting → syncing → protected → leaving ─────────→ ending → unprotected
 *                                         ↑ ↓  └─→ arbitrating ─ granted ──↗
 *                                     handing-over ─↗      └─ denied → superseded
 *
 * Output is held from epoch 1 on, which is when the backup may first be able to take over, until the backup
 * has disarmed itself (`goodbye-ok`) or the arbiter has ruled it out. `protected` is in primary-epochs.ts,
 * `handing-over` in primary-handover.ts.
 */
import { type PacerSettings, startPacing } from "./pacer.ts";
import { fromProtected } from "./primary-epochs.ts";
import { fromHandingOver } from "./primary-handover.ts";
import type {
  ArbitratingState,
  LeavingState,
  PrimaryEffect,
  PrimaryEvent,
  PrimaryState,
} from "./primary-protocol.ts";
import { backupUnable, failure, illegal, type PrimaryStep, stay } from "./primary-step.ts";
import { InvariantBroken, info, warn } from "./transition.ts";
import type { EpochId, Generation, Milliseconds } from "./words.ts";

const STALE_TAKEOVER = "the other host believes in an older generation than this one";

export function startPrimary(generation: Generation): PrimaryState {
  return { phase: "unprotected", generation };
}

export function stepPrimary(
  state: PrimaryState,
  event: PrimaryEvent,
  now: Milliseconds,
  settings: PacerSettings,
): PrimaryStep {
  // Whoever else owns the VM, and in whatever state we are: it must not run here (I3). But one that owned it
  // before us may not know yet.
  if (event.type === "takeover") {
    if (event.generation >= state.generation)
      return superseded(state, event.generation, "the backup has taken over");
    return stepPrimary(state, { type: "link-lost", reason: STALE_TAKEOVER }, now, settings);
  }
  if (event.type === "hypervisor-hung") return hung(state, event.reason);
  switch (state.phase) {
    case "unprotected":
      return fromUnprotected(state, event);
    case "connecting":
      return fromConnecting(state, event);
    case "syncing":
      return fromSyncing(state, event, now, settings);
    case "protected":
      return fromProtected(state, event, now, settings);
    case "handing-over":
      return fromHandingOver(state, event, now, settings);
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
    case "unable":
    case "heard-late":
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
        effects: [
          { type: "close-link" },
          info(
            `protection was given up before it began${event.because === undefined ? "" : `: ${event.because}`}`,
          ),
        ],
      };
    // A host that is slow while it connects has released nothing that could be too late.
    case "heard-late":
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
          switchover: false,
          leaveBecause: undefined,
          releaseFrom: 0,
        },
        effects: [{ type: "begin-epochs" }, info("first pass done; output is held from here on")],
      };
    case "unable":
      return giveUp(warn(`the backup cannot go on: ${event.reason}. The VM runs on, unprotected`));
    case "link-lost":
      return giveUp(warn(`first pass broken off: ${event.reason}. The VM runs on, unprotected`));
    case "capture-failed":
    case "output-failed":
    case "disk-failed":
      return giveUp(warn(`${failure(event)}. The VM runs on, unprotected`));
    case "stop-asked":
      return giveUp(
        info(`first pass broken off${event.because === undefined ? ", as asked" : `: ${event.because}`}`),
      );
    case "sent":
    case "tick":
    case "heard-late":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

function fromLeaving(state: LeavingState, event: PrimaryEvent): PrimaryStep {
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
    case "unable":
      return backupUnable(generation, false, event.reason);
    case "acked":
      return ackedLate(state, event.epoch);
    case "heard-late":
      // No checkpoint follows that could show otherwise; `goodbye-ok` will.
      return stay({ ...state, releaseFrom: Number.MAX_SAFE_INTEGER });
    case "link-lost":
      return {
        state: {
          phase: "arbitrating",
          generation,
          acked: state.acked,
          proceedWhenCaptured: false,
          proceedWhenGranted: false,
          planned: false,
        },
        effects: [
          warn(`the backup was lost before it stood down: ${event.reason}`),
          { type: "close-link" },
          { type: "ask-arbiter", generation },
        ],
      };
    case "requested":
    case "capture-put-off":
    case "sent":
    case "tick":
    case "stop-asked":
    case "capture-failed":
    case "output-failed":
    case "disk-failed":
    case "hold-asked":
    case "proceed-asked":
    case "switchover-asked":
      return stay(state);
    default:
      return illegal(state, event);
  }
}

function ackedLate(state: LeavingState, epoch: EpochId): PrimaryStep {
  if (epoch !== state.acked + 1) throw new InvariantBroken("I1", `ack ${epoch} after ack ${state.acked}`);
  const effects: PrimaryEffect[] = epoch < state.releaseFrom ? [] : [{ type: "release", upTo: epoch }];
  return { state: { ...state, acked: epoch }, effects };
}

function fromArbitrating(state: ArbitratingState, event: PrimaryEvent): PrimaryStep {
  switch (event.type) {
    case "verdict":
      if (!event.granted)
        return superseded(state, event.generation, "the arbiter has given the VM to the backup");
      return {
        state: { phase: "ending", generation: event.generation },
        effects: [
          ...(state.proceedWhenGranted ? [{ type: "proceed" } as const] : []),
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
    case "capture-put-off":
      return stay({ ...state, proceedWhenCaptured: false });
    case "capture-failed":
      // Nobody is there any more to hear a `proceed`.
      return stay({ ...state, proceedWhenCaptured: false, proceedWhenGranted: false });
    case "requested":
    case "sent":
    case "acked":
    case "heard-late":
    case "tick":
    case "link-lost":
    case "stop-asked":
    case "output-failed":
    case "disk-failed":
    case "goodbye-ok":
    case "unable":
    case "handover-refused":
    case "hold-asked":
    case "proceed-asked":
    case "switchover-asked":
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

/**
 * A VM that hangs is of no use to anybody, but only where the backup holds a checkpoint of it does its death
 * bring it back (I4). Elsewhere it might wake up, and is the only copy (I5): nobody else has it before
 * checkpoint 0 is acknowledged, or may have it once the backup was told goodbye; and while the arbiter is
 * asked, its word says who goes on.
 */
function hung(state: PrimaryState, reason: string): PrimaryStep {
  if (state.phase !== "protected" || state.acked < 0) return stay(state);
  return { state, effects: [{ type: "kill-vm", reason: `${reason}; the backup can go on` }] };
}

function superseded(state: PrimaryState, generation: Generation, why: string): PrimaryStep {
  if (state.phase === "superseded") return stay(state);
  const planned = state.phase === "handing-over" || (state.phase === "arbitrating" && state.planned);
  return {
    state: { phase: "superseded", generation, planned },
    effects: [{ type: "kill-vm", reason: `${why} (generation ${generation})` }],
  };
}
