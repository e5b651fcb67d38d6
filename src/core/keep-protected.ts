/**
 * Protection that was lost comes back by itself. Pure. Who asked for protection wants it until somebody says
 * stop: a primary that has lost its backup, or has just become a primary, tries again and again, and the VM
 * is not left on one host because nobody was awake (I4).
 *
 * A try where nobody answers costs nothing, so it is made often. One that has begun costs the VM a first
 * pass; if what it begins does not last, the next one waits twice as long.
 */
import type { PrimaryState } from "./primary-protocol.ts";
import type { Milliseconds } from "./words.ts";

export interface KeepSettings {
  /** From the end of a protection, or of a try, to the next try. */
  readonly retryMs: Milliseconds;
}

export interface Keeping {
  /** Protection is wanted. */
  readonly wanted: boolean;
  /** No try before this time. */
  readonly tryAtMs: Milliseconds;
  /** How long is waited after a protection that has begun and did not last. */
  readonly delayMs: Milliseconds;
  readonly phase: PrimaryState["phase"];
  /** Since when the VM is protected; undefined while it is not. */
  readonly protectedSinceMs: Milliseconds | undefined;
}

/** A protection that has lasted so long was sound, whatever ended it. */
const SOUND_MS = 10_000;
const LONGEST_DELAY_MS = 60_000;

export function startKeeping(wanted: boolean, now: Milliseconds, { retryMs }: KeepSettings): Keeping {
  return {
    wanted,
    tryAtMs: now + retryMs,
    delayMs: retryMs,
    phase: "unprotected",
    protectedSinceMs: undefined,
  };
}

/** Somebody said stop. */
export function stopKeeping(keeping: Keeping): Keeping {
  return { ...keeping, wanted: false };
}

/** To be called after every step of the primary's core. */
export function keepStepped(
  keeping: Keeping,
  state: PrimaryState,
  now: Milliseconds,
  { retryMs }: KeepSettings,
): Keeping {
  const before = keeping.phase;
  const { phase } = state;
  // Checkpoint 0 is acknowledged: from here on the VM is protected, and wanted so. A stop before that has
  // left `protected` at once.
  const whole = phase === "protected" && state.acked >= 0;
  const next: Keeping = {
    ...keeping,
    phase,
    wanted: keeping.wanted || (whole && keeping.protectedSinceMs === undefined),
    protectedSinceMs: whole ? (keeping.protectedSinceMs ?? now) : keeping.protectedSinceMs,
  };
  if (phase !== "unprotected" || before === "unprotected") return next;
  if (before === "connecting") return { ...next, tryAtMs: now + retryMs, protectedSinceMs: undefined };
  const lastedMs = now - (keeping.protectedSinceMs ?? now);
  const delayMs = lastedMs >= SOUND_MS ? retryMs : next.delayMs;
  return {
    ...next,
    tryAtMs: now + delayMs,
    delayMs: Math.min(2 * delayMs, Math.max(LONGEST_DELAY_MS, retryMs)),
    protectedSinceMs: undefined,
  };
}

/** Whether protection should be asked for now. */
export function triesNow({ phase, tryAtMs, wanted }: Keeping, now: Milliseconds): boolean {
  return wanted && phase === "unprotected" && now >= tryAtMs;
}

/** A try is made now; one that comes to nothing before it has begun is not repeated at once. */
export function keepTried(keeping: Keeping, now: Milliseconds, { retryMs }: KeepSettings): Keeping {
  return { ...keeping, tryAtMs: now + retryMs };
}
