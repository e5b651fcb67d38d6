/**
 * What must be done and cannot be at present is tried again in the background, less and less often, until it
 * is done. An alarm stands meanwhile.
 */
import type { Alarm } from "./watch/alarm.ts";

/** From a failure to the next try; it doubles up to the longest. */
export const FIRST_MS = 100;
export const LONGEST_MS = 10_000;

export interface Persisting {
  /** A sentence's beginning: "listening for the old owner". */
  readonly what: string;
  readonly attempt: () => Promise<void>;
  /** Whether it is still to be done. */
  readonly wanted: () => boolean;
  readonly alarm: Alarm;
  /** The first try was made already, and failed. */
  readonly failed?: Error;
}

/** Resolves when it is done, or not wanted any more. Never rejects. */
export async function persist({ alarm, attempt, failed, wanted, what }: Persisting): Promise<void> {
  let error = failed;
  for (let waitMs = FIRST_MS; wanted(); waitMs = Math.min(2 * waitMs, LONGEST_MS)) {
    if (error !== undefined) {
      alarm.raise(`${what} has failed, and is tried again: ${error.message}`);
      await new Promise((again) => setTimeout(again, waitMs));
      if (!wanted()) break;
    }
    try {
      await attempt();
      alarm.lower(`${what} has worked now`);
      return;
    } catch (cause) {
      error = cause as Error;
    }
  }
  alarm.lower(`${what} is not needed any more`);
}
