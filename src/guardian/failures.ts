/**
 * What either guardian does with an effect that has failed: the words for it, the tries that follow, and the
 * role's own remedies. Which one it is, core/effect-failures.ts says.
 */
import { IllegalTransition, InvariantBroken } from "../core/transition.ts";
import type { Failed } from "./event-loop.ts";
import { persist } from "./persist.ts";
import { Alarm, type Told } from "./watch/alarm.ts";

/** A failure of the loop, or an exception that nobody has caught. */
export type Failure<Event, Effect> = Failed<Event, Effect> | { readonly duty: "uncaught" };

interface Typed {
  readonly type: string;
}

type Duty<Effect extends Typed> = Effect["type"] | "step" | "stepped" | "uncaught";

/** What a role does about its failures. */
export interface FailureParts<Event extends Typed, Effect extends Typed, State, Remedy> extends Told {
  readonly state: () => State;
  /** The role's table in core/effect-failures.ts. */
  readonly remedyOf: (duty: Duty<Effect>, broken: boolean, state: State) => Remedy | "again" | "tell";
  /** Of the remedies that are the role's own. */
  readonly carryOut: (remedy: Remedy, reason: string, what: Failure<Event, Effect>) => void;
}

/**
 * Tells of each failure, and does what the table says: nothing more, another try, or what is the role's own.
 */
export class Failures<
  Event extends Typed,
  Effect extends Typed,
  State extends { readonly phase: string },
  Remedy extends string,
> {
  private readonly parts: FailureParts<Event, Effect, State, Remedy>;
  private readonly tried: TriedAgain;

  constructor(parts: FailureParts<Event, Effect, State, Remedy>) {
    this.parts = parts;
    this.tried = new TriedAgain(parts);
  }

  failed(what: Failure<Event, Effect>, error: Error): void {
    const { carryOut, remedyOf, state } = this.parts;
    const duty = what.duty === "effect" ? (what.effect.type as Effect["type"]) : what.duty;
    const said = what.duty === "step" ? `event ${what.event.type}` : duty;
    const reason = tellFailure(this.parts, said, state().phase, error);
    const remedy = () => remedyOf(duty, error instanceof InvariantBroken, state());
    const now = remedy();
    if (now === "again") {
      if ("again" in what) this.tried.again(duty, error, what.again, () => remedy() === "again");
    } else if (now !== "tell") carryOut(now as Remedy, reason, what);
  }
}

/** Logs it, and tells those who watch. @returns a sentence for whoever must hear the reason */
function tellFailure(told: Told, duty: string, phase: string, error: Error): string {
  const text = isOurBug(error)
    ? `internal error, please report it: ${duty} while ${phase}: ${error.stack}`
    : `${duty} has failed while ${phase}: ${error.message}`;
  told.log.error(text);
  told.control.publish({ kind: "report", level: "error", text });
  return `${duty} has failed: ${error.message}`;
}

function isOurBug(error: Error): boolean {
  const kinds = [InvariantBroken, IllegalTransition, TypeError, ReferenceError, RangeError];
  return kinds.some((kind) => error instanceof kind);
}

/** Effects that are tried again in the background; one at a time of each kind. */
class TriedAgain {
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
