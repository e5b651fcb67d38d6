/** Carries out what core/effect-failures.ts says of a primary's effect that has failed. */
import { primaryRemedy } from "../../core/effect-failures.ts";
import type { PrimaryEffect, PrimaryEvent, PrimaryState } from "../../core/primary-protocol.ts";
import { dutyOf, type Failure, isBroken, TriedAgain, tellFailure } from "../failures.ts";
import type { Told } from "../watch/alarm.ts";

export interface PrimaryFailureParts extends Told {
  readonly state: () => PrimaryState;
  /** A part of the present protection has failed; an end of protection unless QEMU is dead. */
  readonly partFailed: (type: "capture-failed" | "output-failed", reason: string) => void;
  /** Closes the link and feeds `link-lost`. */
  readonly loseLink: (reason: string) => void;
  readonly kill: () => void;
}

export class PrimaryFailures {
  private readonly parts: PrimaryFailureParts;
  private readonly tried: TriedAgain;

  constructor(parts: PrimaryFailureParts) {
    this.parts = parts;
    this.tried = new TriedAgain(parts);
  }

  failed(what: Failure<PrimaryEvent, PrimaryEffect>, error: Error): void {
    const { kill, loseLink, partFailed, state } = this.parts;
    const duty = dutyOf<PrimaryEffect>(what);
    const said = what.duty === "step" ? `event ${what.event.type}` : duty;
    const reason = tellFailure(this.parts, said, state().phase, error);
    const remedy = () => primaryRemedy(duty, isBroken(error), state());
    switch (remedy()) {
      case "tell":
        return;
      case "again":
        if ("again" in what) this.tried.again(duty, error, what.again, () => remedy() === "again");
        return;
      case "capture-failed":
      case "output-failed":
        partFailed(remedy() as "capture-failed", reason);
        return;
      case "link-lost":
        loseLink(reason);
        return;
      case "kill-vm":
        kill();
        return;
    }
  }
}
