/**
 * When an epoch ends. QEMU waits for our word with the VM running, so to wait here costs the guest nothing:
 * that is also how a slow link makes epochs longer instead of queues (I6).
 */
import type { EpochId, Milliseconds } from "./words.ts";

/** So often the way to the backup is measured anew, at the price of one ack's time. */
const PROBE_EVERY_MS = 5_000;
const SMOOTHING = 4;

export interface PacerSettings {
  /** From the start of one checkpoint to the start of the next. */
  readonly intervalMs: Milliseconds;
  /** Checkpoints captured and not acknowledged, at most. */
  readonly maxInFlight: number;
  /**
   * With so much of checkpoints not acknowledged, no further one is begun. So the backup's memory is bounded
   * by this and one checkpoint.
   */
  readonly maxInFlightBytes: number;
}

export interface PacerState {
  readonly dueMs: Milliseconds;
  /** When the last capture began, and how far apart captures are, smoothed. */
  readonly capturedMs: Milliseconds;
  readonly epochMs: Milliseconds;
  /** A capture with nothing in flight before it: its ack tells how long the way there and back takes. */
  readonly probe: { readonly epoch: EpochId; readonly sinceMs: Milliseconds } | undefined;
  /** What the last probe found, and when; undefined before the first. */
  readonly ack: { readonly tookMs: Milliseconds; readonly atMs: Milliseconds } | undefined;
  /** The newest checkpoint that has left for the link in full; -1 before checkpoint 0 has. */
  readonly sent: EpochId;
  /** What is captured and not acknowledged, in order. */
  readonly inFlight: readonly { readonly epoch: EpochId; readonly bytes: number }[];
}

export type Pace =
  | { readonly kind: "now" }
  | { readonly kind: "at"; readonly atMs: Milliseconds }
  /** Until an ack or a sent message changes something. */
  | { readonly kind: "blocked"; readonly by: "acks" | "link" };

export function startPacing(now: Milliseconds, settings: PacerSettings): PacerState {
  return {
    dueMs: now + settings.intervalMs,
    capturedMs: now,
    epochMs: settings.intervalMs,
    probe: undefined,
    ack: undefined,
    sent: -1,
    inFlight: [],
  };
}

/** May the epoch `running` end now? */
export function pace(
  pacer: PacerState,
  settings: PacerSettings,
  epochs: { readonly running: EpochId; readonly acked: EpochId },
  now: Milliseconds,
): Pace {
  if (now < pacer.dueMs) return { kind: "at", atMs: pacer.dueMs };
  // A second checkpoint behind one that still waits to be sent would only wait too, and clients for both.
  if (pacer.sent < epochs.running - 1) return { kind: "blocked", by: "link" };
  if (epochs.running - 1 - epochs.acked >= inFlightAllowed(pacer, settings, now))
    return { kind: "blocked", by: "acks" };
  const bytes = pacer.inFlight.reduce((sum, checkpoint) => sum + checkpoint.bytes, 0);
  if (bytes >= settings.maxInFlightBytes) return { kind: "blocked", by: "acks" };
  return { kind: "now" };
}

/**
 * How many checkpoints may be on their way: as many as the way there and back takes epochs, and one more.
 * More would only stand in line in the network's buffers, and the guest's output with them. At first, and
 * once in a while, nothing may be before it, to learn how long the way is now.
 */
function inFlightAllowed(pacer: PacerState, settings: PacerSettings, now: Milliseconds): number {
  if (pacer.ack === undefined || now - pacer.ack.atMs > PROBE_EVERY_MS) return 1;
  // Rounded, not up: where sending is what takes the time, an ack takes a little longer than an epoch, and
  // one more would stand in line.
  const epochsOnTheWay = Math.round(pacer.ack.tookMs / Math.max(pacer.epochMs, settings.intervalMs));
  return Math.min(Math.max(epochsOnTheWay, 1) + 1, settings.maxInFlight);
}

/**
 * A capture starts. Late ones do not shift the grid, so that the rate holds; after a long wait the grid
 * starts anew.
 */
export function paceCapture(
  pacer: PacerState,
  settings: PacerSettings,
  epochs: { readonly running: EpochId; readonly acked: EpochId },
  now: Milliseconds,
): PacerState {
  const alone = epochs.acked === epochs.running - 1;
  return {
    ...pacer,
    dueMs: Math.max(pacer.dueMs + settings.intervalMs, now + settings.intervalMs / 2),
    capturedMs: now,
    epochMs: pacer.epochMs + (now - pacer.capturedMs - pacer.epochMs) / SMOOTHING,
    probe: alone ? { epoch: epochs.running, sinceMs: now } : pacer.probe,
  };
}

export function paceAcked(pacer: PacerState, epoch: EpochId, now: Milliseconds): PacerState {
  // What is acknowledged was sent, whatever has been heard of that.
  const sent = Math.max(pacer.sent, epoch);
  const inFlight = pacer.inFlight.filter((checkpoint) => checkpoint.epoch > epoch);
  if (pacer.probe?.epoch !== epoch) return { ...pacer, sent, inFlight };
  return {
    ...pacer,
    sent,
    inFlight,
    probe: undefined,
    ack: { tookMs: now - pacer.probe.sinceMs, atMs: now },
  };
}

/** @param bytes of memory and device state that the checkpoint has */
export function paceCaptured(pacer: PacerState, epoch: EpochId, bytes: number): PacerState {
  return { ...pacer, inFlight: [...pacer.inFlight, { epoch, bytes }] };
}

export function paceSent(pacer: PacerState, epoch: EpochId): PacerState {
  return { ...pacer, sent: Math.max(pacer.sent, epoch) };
}
