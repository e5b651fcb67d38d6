/**
 * Whether the running VM is still the one that the backup has agreed to: what somebody changes over another
 * monitor, or the guest ejects, would be found out at the failover otherwise. A change ends the protection
 * with its name (I5); the next try compares everything anew.
 */
import {
  CHANGE_EVENTS,
  changeBetween,
  type LiveLook,
  lookForChanges,
} from "../../hypervisor/qemu/live-changes.ts";
import type { Qmp } from "../../hypervisor/qemu/qmp.ts";
import type { Log } from "../log.ts";

/**
 * A look is due this often, and begins when the VM runs on after a checkpoint: farthest from the next pause.
 */
const LOOK_EVERY_MS = 1_000;

export interface ChangeWatchOptions {
  readonly qmp: Pick<Qmp, "execute" | "on">;
  /** How many network cards the VM was given. */
  readonly cards: number;
  readonly log: Pick<Log, "warn">;
  /** The backup holds a checkpoint, so it could take over. Before that, checkpoint 0 is loaded on trial. */
  readonly isProtected: () => boolean;
  /** Once for each machine that was agreed to. @param what a sentence without its full stop */
  readonly onChanged: (what: string) => void;
}

export class ChangeWatch {
  private readonly options: ChangeWatchOptions;
  private agreed: LiveLook | undefined;
  private looking = false;
  private again = false;
  private due = false;
  private readonly timer: NodeJS.Timeout;

  constructor(options: ChangeWatchOptions) {
    this.options = options;
    const { qmp } = options;
    for (const event of CHANGE_EVENTS) qmp.on(event, () => void this.look());
    qmp.on("RESUME", () => {
      if (this.due) void this.look();
    });
    qmp.on("closed", () => this.close());
    this.timer = setInterval(() => this.tick(), LOOK_EVERY_MS);
    this.timer.unref();
  }

  /** Describes the machine for a backup: what changes from now on is a change. */
  async describe<T>(machine: () => Promise<T>): Promise<T> {
    this.agreed = undefined;
    const { cards, qmp } = this.options;
    const look = await lookForChanges(qmp as Qmp, cards);
    const described = await machine();
    this.agreed = look;
    return described;
  }

  /** One at a time; what is asked for meanwhile is done after it. */
  async look(): Promise<void> {
    this.due = false;
    const { isProtected, cards, log, onChanged, qmp } = this.options;
    if (this.looking) {
      this.again = true;
      return;
    }
    this.looking = true;
    try {
      do {
        this.again = false;
        const { agreed } = this;
        if (agreed === undefined || !isProtected()) return;
        const now = await lookForChanges(qmp as Qmp, cards);
        const what = now && changeBetween(agreed, now);
        // Meanwhile another machine may have been agreed to.
        if (what === undefined || this.agreed !== agreed || !isProtected()) continue;
        this.agreed = undefined;
        onChanged(what);
      } while (this.again);
    } catch (error) {
      log.warn(`the running VM could not be looked at for changes: ${(error as Error).message}`);
    } finally {
      this.looking = false;
    }
  }

  close(): void {
    clearInterval(this.timer);
  }

  private tick(): void {
    // Without a checkpoint in all this time there is no pause to keep away from.
    if (this.due) void this.look();
    else this.due = true;
  }
}
