/**
 * The images did not take a checkpoint, and nobody else has the VM: this host waits, and tries again, less
 * and less often, until they do. An alarm stands meanwhile.
 */
import { FIRST_MS, LONGEST_MS } from "../persist.ts";
import { Alarm, type Told } from "../watch/alarm.ts";

export interface CommitAgainOptions extends Told {
  /** Makes the images ready to be tried. */
  readonly ready: () => Promise<void>;
  /** Gives them what they did not take. False: they have taken all by now. */
  readonly commit: () => boolean;
  readonly wanted: () => boolean;
}

export class CommitAgain {
  private readonly options: CommitAgainOptions;
  private readonly alarm: Alarm;
  private waiting: NodeJS.Timeout | undefined;
  private waitMs = FIRST_MS;

  constructor(options: CommitAgainOptions) {
    this.options = options;
    this.alarm = new Alarm(options, "disk");
  }

  /** Each failure is told here, those of a new try, too. */
  failed(reason: string): void {
    if (this.waiting !== undefined) return;
    this.alarm.raise(`the VM waits for the images here, which are tried again: ${reason}`, "error");
    this.waiting = setTimeout(() => void this.tryNow(), this.waitMs);
    this.waitMs = Math.min(2 * this.waitMs, LONGEST_MS);
  }

  /** A checkpoint is in the images. */
  worked(): void {
    if (this.waiting !== undefined) return;
    this.waitMs = FIRST_MS;
    this.alarm.lower("the images here take the VM's last checkpoints");
  }

  /** The VM is another host's, or this guardian ends. */
  close(): void {
    clearTimeout(this.waiting);
    this.waiting = undefined;
    this.alarm.lower("nothing waits for the images here any more");
  }

  private async tryNow(): Promise<void> {
    const { commit, ready, wanted } = this.options;
    this.waiting = undefined;
    try {
      await ready();
      if (!wanted()) this.close();
      else if (!commit()) this.worked();
    } catch (error) {
      if (wanted()) this.failed((error as Error).message);
    }
  }
}
