/**
 * Whether QEMU is there. It is asked out of band, on a monitor that a thread of its own serves: QEMU answers
 * there while its main loop waits for a slow disk and while its VM is paused, and does not when the process
 * stands still.
 *
 * Where that cannot be had, an answer that is late proves nothing, for the main loop gives it. Then only the
 * kernel is asked: a process that is stopped hangs, and no other.
 */
import { SilenceDetector } from "../../core/silence.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import { QmpClosed } from "../../hypervisor/qemu/qmp-errors.ts";
import { monotonicMs } from "../../os/monotonic.ts";
import type { Context } from "../context.ts";
import type { ControlSocket } from "../control/socket.ts";
import type { Log } from "../log.ts";

/** A letter of proc(5): stopped by a signal, or by a tracer. */
const STOPPED = ["T", "t"];
/** Dead, and not ours to judge. */
const DEAD = [undefined, "Z", "X"];

export interface HangWatchOptions {
  readonly qemu: Pick<QemuProcess, "watchdog" | "processState">;
  /** Silence for this long is a hang. */
  readonly hungMs: number;
  /** Who does not answer, in sentences: "the VM's QEMU". */
  readonly who: string;
  readonly log: Log;
  readonly control: Pick<ControlSocket, "publish">;
  /** Again and again while it hangs. @param reason a sentence's beginning */
  readonly onHung: (reason: string) => void;
}

export class HangWatch {
  private readonly options: HangWatchOptions;
  private readonly detector: SilenceDetector;
  private readonly timer: NodeJS.Timeout;
  private asking = false;
  /** Found to hang, and not heard since. */
  private hangs = false;
  private alarmed = false;
  /** Its monitor can tell. */
  private answers: boolean;
  /** Why the kernel is asked instead, a sentence's beginning, until that has been said. */
  private unsaid: string | undefined;

  constructor(options: HangWatchOptions) {
    this.options = options;
    this.detector = new SilenceDetector(options.hungMs, monotonicMs());
    const { who } = options;
    this.answers = options.qemu.watchdog.takesOob;
    if (!this.answers) this.unsaid = `${who} takes no commands out of band on its monitor`;
    this.timer = setInterval(() => this.look(), this.detector.tickMs);
    this.timer.unref();
  }

  /** Its process is gone, or is somebody else's to watch. */
  close(): void {
    clearInterval(this.timer);
    this.alarm(false, `${this.options.who} hangs no more`);
  }

  private look(): void {
    const { hungMs, onHung, who } = this.options;
    if (this.answers) void this.ask();
    else this.askTheKernel();
    if (this.detector.tick(monotonicMs()) === "lost") this.hangs = true;
    this.alarm(this.hangs, this.hangs ? `${who} does not answer: it hangs` : `${who} answers again`);
    if (this.hangs) onHung(`${who} has given no sign of life for ${hungMs} ms`);
  }

  /**
   * One question at a time (I6). Whatever comes back, also a refusal, is a sign of life; that the connection
   * is gone is none.
   */
  private async ask(): Promise<void> {
    if (this.asking) return;
    this.asking = true;
    const { qemu, who } = this.options;
    const lost = await qemu.watchdog.executeOob("query-yank").then(
      () => undefined,
      (error: Error) => (error instanceof QmpClosed ? error : undefined),
    );
    this.asking = false;
    if (lost === undefined) {
      this.heard();
      return;
    }
    this.answers = false;
    this.unsaid = `${who} cannot be asked out of band any more (${lost.message})`;
  }

  private askTheKernel(): void {
    const state = this.options.qemu.processState;
    // Its monitor goes a moment before it does: then there is nothing to say.
    if (this.unsaid !== undefined && !DEAD.includes(state)) {
      this.options.log.warn(
        `${this.unsaid}: it is taken to hang only while its process is stopped, not when its threads are stuck`,
      );
      this.unsaid = undefined;
    }
    if (state === undefined || !STOPPED.includes(state)) this.heard();
  }

  private heard(): void {
    this.hangs = false;
    this.detector.heard(monotonicMs());
  }

  private alarm(raised: boolean, text: string): void {
    if (raised === this.alarmed) return;
    this.alarmed = raised;
    const { control, log } = this.options;
    log[raised ? "error" : "info"](text);
    control.publish({ kind: "alarm", about: "hypervisor", raised, text });
  }
}

/** The standby's QEMU. */
export function watchStandby(
  { config, control, log }: Context,
  qemu: HangWatchOptions["qemu"],
  onHung: HangWatchOptions["onHung"],
): HangWatch {
  return new HangWatch({
    qemu,
    hungMs: config.timing.hungMs,
    who: "the standby's QEMU",
    log,
    control,
    onHung,
  });
}
