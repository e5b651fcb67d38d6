/**
 * What is said and done of a VM that stands still, and not because of Remus: an alarm with the reason and the
 * remedy. Checkpoints wait meanwhile. What becomes of a VM whose disk has failed (io-error) is in
 * docs/guests.md.
 */
import type { PrimaryEvent, PrimaryState } from "../../core/primary-protocol.ts";
import type { PrimaryConfig } from "../config/config.ts";
import type { Context } from "../context.ts";
import type { Standstill, StandstillState } from "../primary/running-vm.ts";

/** A sentence each. A guest that has ended is no standstill but an end. */
const TEXTS: Readonly<Partial<Record<StandstillState, string>>> = {
  paused:
    "the VM is paused by its operator, and stays so; it runs on with the order `resume`, or `cont` on one of QEMU's monitors",
  suspended: "the guest sleeps (S3); its operator wakes it with `system_wakeup` on one of QEMU's monitors",
  watchdog:
    "the guest's watchdog has paused the VM; look at the guest, and let it run on with the order `resume`, or reset it",
  "internal-error": "QEMU cannot run the VM on (internal-error); its log in the run directory may say why",
  debug: "a debugger has stopped the VM; it runs on with the order `resume`",
};

export interface StandstillWatchOptions {
  readonly context: Pick<Context<PrimaryConfig>, "log" | "control">;
  readonly state: () => PrimaryState;
  /** A first pass is under way, or a protection. */
  readonly captures: () => boolean;
  readonly feed: (event: PrimaryEvent) => void;
}

export class StandstillWatch {
  private readonly options: StandstillWatchOptions;
  private raised: StandstillState | undefined;

  constructor(options: StandstillWatchOptions) {
    this.options = options;
  }

  /** The VM stands still for another reason than before; undefined: it runs. */
  told(standstill: Standstill | undefined): void {
    const state = standstill?.state;
    const text = state === undefined ? undefined : TEXTS[state];
    if (text !== undefined) {
      this.raised = state;
      this.say(true, `${text}. No checkpoint is taken meanwhile`);
    } else if (this.raised !== undefined) {
      this.raised = undefined;
      this.say(false, "the VM runs again");
    }
    if (state !== undefined) this.act(state);
  }

  private act(state: StandstillState): void {
    const { captures, feed, state: core } = this.options;
    // QEMU would abort if it were let run; where the backup has the VM, it can.
    if (state === "internal-error")
      feed({ type: "hypervisor-hung", reason: "QEMU says that it cannot run the VM on (internal-error)" });
    // The first pass would end with the VM running. What stands still while the disks are brought into step
    // may do so.
    if (core().phase === "syncing" && captures())
      feed({
        type: "stop-asked",
        because: `the VM stands still (${state}), and only a running one can be protected`,
      });
  }

  private say(raised: boolean, text: string): void {
    const { control, log } = this.options.context;
    log[raised ? "warn" : "info"](text);
    control.publish({ kind: "alarm", about: "vm", raised, text });
  }
}
