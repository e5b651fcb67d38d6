/**
 * What either guardian does with an effect that has failed: the words for it, and the tries that follow.
 * Which remedy it is, core/effect-failures.ts says.
 */
import { IllegalTransition, InvariantBroken } from "../core/transition.ts";
import type { Failed } from "./event-loop.ts";
import { persist } from "./persist.ts";
import { Alarm, type Told } from "./watch/alarm.ts";

/** A failure of the loop, or an exception that nobody has caught. */
export type Failure<Event, Effect> = Failed<Event, Effect> | { readonly duty: "uncaught" };

/** As the tables of core/effect-failures.ts name it. */
export function dutyOf<Effect extends { readonly type: string }>(
  what: Failure<unknown, Effect>,
): Effect["type"] | "step" | "stepped" | "uncaught" {
  return what.duty === "effect" ? (what.effect.type as Effect["type"]) : what.duty;
}

/** Logs it, and tells those who watch. @returns a sentence for whoever must hear the reason */
export function tellFailure(told: Told, duty: string, phase: string, error: Error): string {
  const text = isOurBug(error)
    ? `internal error, please report it: ${duty} while ${phase}: ${error.stack}`
    : `${duty} has failed while ${phase}: ${error.message}`;
  told.log.error(text);
  told.control.publish({ kind: "report", level: "error", text });
  return `${duty} has failed: ${error.message}`;
}

export function isBroken(error: Error): boolean {
  return error instanceof InvariantBroken;
}

function isOurBug(error: Error): boolean {
  const kinds = [InvariantBroken, IllegalTransition, TypeError, ReferenceError, RangeError];
  return kinds.some((kind) => error instanceof kind);
}

/** Effects that are tried again in the background; one at a time of each kind. */
export class TriedAgain {
  private readonly told: Told;
  private readonly underWay = new Set<string>();

  constructor(told: Told) {
    this.told = told;
  }

  /** @param wanted whether it is still to be done */
  again(duty: string, failed: Error, attempt: () => Promise<void>, wanted: () => boolean): void {
    if (this.underWay.has(duty)) return;
    this.underWay.add(duty);
    const alarm = new Alarm(this.told, "guardian");
    void persist({ what: duty, attempt, wanted, alarm, failed }).then(() => this.underWay.delete(duty));
  }
}
