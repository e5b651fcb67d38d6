/** Carries out what core/effect-failures.ts says of a backup's effect that has failed. */
import type { BackupEffect, BackupEvent, BackupState } from "../../core/backup.ts";
import { backupRemedy } from "../../core/effect-failures.ts";
import { Failures } from "../failures.ts";
import type { Attended } from "../host-signals.ts";
import type { Log } from "../log.ts";
import type { Told } from "../watch/alarm.ts";

export interface BackupFailureParts extends Told {
  readonly state: () => BackupState;
  readonly feed: (event: BackupEvent) => void;
  /** Closes the link and feeds `primary-lost`. */
  readonly loseLink: (reason: string) => void;
  readonly beginAnew: () => void;
}

/**
 * An event that the core did not take is not told to it again. Without one of these it does not know what is
 * in the images, or would refuse it for ever.
 */
const LEFT_OUT: ReadonlySet<BackupEvent["type"]> = new Set(["committed", "primary-lost"]);

type OwnRemedy = Exclude<ReturnType<typeof backupRemedy>, "again" | "tell">;

export class BackupFailures extends Failures<BackupEvent, BackupEffect, BackupState, OwnRemedy> {
  constructor({ beginAnew, feed, loseLink, ...told }: BackupFailureParts) {
    super({
      ...told,
      remedyOf: backupRemedy,
      carryOut: (remedy, reason, what) => {
        switch (remedy) {
          case "primary-lost":
            if (what.duty === "step" && LEFT_OUT.has(what.event.type)) beginAnew();
            else loseLink(reason);
            return;
          case "commit-failed":
          case "standby-failed":
            feed({ type: remedy, reason });
            return;
          case "begin-anew":
            beginAnew();
            return;
        }
      },
    });
  }
}

/** The primary is lost, and the VM does not run here yet: nobody else may have it. */
export function isOnlyCopy(state: BackupState): boolean {
  return (state.phase === "arbitrating" || state.phase === "recovering") && !state.planned;
}

/**
 * Whether the VM is elsewhere: a standby that does nothing is ended. Where the primary is lost it may be the
 * only way the VM can go on (I5).
 */
export function isSpare(state: BackupState): boolean {
  return state.phase !== "running" && !isOnlyCopy(state);
}

/**
 * For the host's signals. A VM that is on its way to this host is not dropped in the midst: whoever it
 * becomes is told to end then.
 * @param end ends the standby and this guardian
 */
export function endingOf(
  log: Log,
  loop: { readonly state: BackupState },
  end: () => void,
): Attended["ending"] {
  return {
    begin: () => {
      if (isSpare(loop.state)) end();
      else log.info(`this host is ${loop.state.phase}; what follows waits for that`);
    },
    now: end,
  };
}
