/** What the steps of the primary are made of. */
import type { LeavingState, PrimaryEffect, PrimaryEvent, PrimaryState } from "./primary-protocol.ts";
import { IllegalTransition, info, type Step, warn } from "./transition.ts";
import type { Generation } from "./words.ts";

export type PrimaryStep = Step<PrimaryState, PrimaryEffect>;

export function stay(state: PrimaryState): PrimaryStep {
  return { state, effects: [] };
}

export function illegal(state: PrimaryState, event: PrimaryEvent, detail?: string): never {
  throw new IllegalTransition("primary", state.phase, event.type, detail);
}

/**
 * Protection ends, by agreement with the backup. @param held whether the capture thread keeps the VM paused
 */
export function leaving(
  { generation, acked, releaseFrom }: Omit<LeavingState, "phase">,
  held: boolean,
  because: string,
): PrimaryStep {
  return {
    state: { phase: "leaving", generation, acked, releaseFrom },
    effects: [
      ...(held ? [{ type: "proceed" } as const] : []),
      { type: "send-goodbye" },
      info(`${because}; waiting for the backup to stand down`),
    ],
  };
}

/**
 * What the backup has said is as good as `goodbye-ok`: it cannot take over any more (I3). @param held the VM
 * waits for a `proceed`
 */
export function backupUnable(generation: Generation, held: boolean, reason: string): PrimaryStep {
  return {
    state: { phase: "ending", generation },
    effects: [
      ...(held ? [{ type: "proceed" } as const] : []),
      { type: "release-all" },
      { type: "end-capture" },
      { type: "close-link" },
      warn(`the backup cannot go on: ${reason}. The VM runs on here, unprotected`),
    ],
  };
}

const PARTS = {
  "capture-failed": "capture",
  "output-failed": "holding output",
  "disk-failed": "copying disk writes",
} as const;

/** A part of protection has failed, in words. */
export function failure(event: PrimaryEvent & { type: keyof typeof PARTS }): string {
  return `${PARTS[event.type]} failed: ${event.reason}`;
}
