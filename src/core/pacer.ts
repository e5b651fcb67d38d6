/**
 * When an epoch ends. QEMU waits for our word with the VM running, so to wait here costs the guest nothing: that is also how a
 * slow link makes epochs longer instead of queues (I6).
 */
import type { EpochId, Milliseconds } from "./words.ts";

export interface PacerSettings {
  /** From the start of one checkpoint to the start of the next. */
  readonly intervalMs: Milliseconds;
  /** Checkpoints captured and not acknowledged, at most. */
  readonly maxInFlight: number;
  /** Bytes of staging at the primary. */
  readonly stagingBytes: number;
}

export interface PacerState {
  readonly dueMs: Milliseconds;
  /** Captured checkpoints that have not left for the link in full, oldest first. */
  readonly unsent: readonly { readonly epoch: EpochId; readonly bytes: number }[];
  /** Size of the last checkpoint: what the next one is expected to need. */
  readonly lastBytes: number;
}

export type Pace =
  | { readonly kind: "now" }
  | { readonly kind: "at"; readonly atMs: Milliseconds }
  /** Until an ack or a sent message changes something. */
  | { readonly kind: "blocked"; readonly by: "acks" | "staging" };

export function startPacing(now: Milliseconds, settings: PacerSettings): PacerState {
  return { dueMs: now + settings.intervalMs, unsent: [], lastBytes: 0 };
}

/** May the epoch `running` end now? */
export function pace(
  pacer: PacerState,
  settings: PacerSettings,
  epochs: { readonly running: EpochId; readonly acked: EpochId },
  now: Milliseconds,
): Pace {
  if (now < pacer.dueMs) return { kind: "at", atMs: pacer.dueMs };
  if (epochs.running - 1 - epochs.acked >= settings.maxInFlight) return { kind: "blocked", by: "acks" };
  // A checkpoint that finds no staging would wait for it inside the pause.
  const unsentBytes = pacer.unsent.reduce((sum, { bytes }) => sum + bytes, 0);
  if (unsentBytes > 0 && unsentBytes + pacer.lastBytes > settings.stagingBytes / 2)
    return { kind: "blocked", by: "staging" };
  return { kind: "now" };
}

/** A capture starts. Late ones do not shift the grid, so that the rate holds; after a long wait the grid starts anew. */
export function paceCapture(pacer: PacerState, settings: PacerSettings, now: Milliseconds): PacerState {
  return { ...pacer, dueMs: Math.max(pacer.dueMs + settings.intervalMs, now + settings.intervalMs / 2) };
}

export function paceCaptured(pacer: PacerState, epoch: EpochId, bytes: number): PacerState {
  return { ...pacer, unsent: [...pacer.unsent, { epoch, bytes }], lastBytes: bytes };
}

/** Checkpoints up to `epoch` have left staging. */
export function paceSent(pacer: PacerState, epoch: EpochId): PacerState {
  return { ...pacer, unsent: pacer.unsent.filter((one) => one.epoch > epoch) };
}
