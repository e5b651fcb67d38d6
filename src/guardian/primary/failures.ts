/** Carries out what core/effect-failures.ts says of a primary's effect that has failed. */
import { primaryRemedy } from "../../core/effect-failures.ts";
import type { PrimaryEffect, PrimaryEvent, PrimaryState } from "../../core/primary-protocol.ts";
import { Failures } from "../failures.ts";
import type { Told } from "../watch/alarm.ts";

export interface PrimaryFailureParts extends Told {
  readonly state: () => PrimaryState;
  /** A part of the present protection has failed; an end of protection unless QEMU is dead. */
  readonly partFailed: (type: "capture-failed" | "output-failed", reason: string) => void;
  /** Closes the link and feeds `link-lost`. */
  readonly loseLink: (reason: string) => void;
  readonly kill: () => void;
}

type OwnRemedy = Exclude<ReturnType<typeof primaryRemedy>, "again" | "tell">;

export class PrimaryFailures extends Failures<PrimaryEvent, PrimaryEffect, PrimaryState, OwnRemedy> {
  constructor({ kill, loseLink, partFailed, ...told }: PrimaryFailureParts) {
    super({
      ...told,
      remedyOf: primaryRemedy,
      carryOut: (remedy, reason) => {
        switch (remedy) {
          case "capture-failed":
          case "output-failed":
            partFailed(remedy, reason);
            return;
          case "link-lost":
            loseLink(reason);
            return;
          case "kill-vm":
            kill();
            return;
        }
      },
    });
  }
}
