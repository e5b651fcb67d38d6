/**
 * Whether QEMU is there. It is asked out of band, on a monitor that a thread of its own serves: QEMU answers there while its main loop waits for a
 * slow disk and while its VM is paused, and does not when the process stands still.
 */
import { SilenceDetector } from "../core/silence.ts";
import type { QemuProcess } from "../hypervisor/qemu/process.ts";
import { monotonicMs } from "../os/monotonic.ts";
import type { ControlSocket } from "./control.ts";
import type { Log } from "./log.ts";
import type { Post } from "./role.ts";

export interface HangWatchOptions {
  readonly qemu: Pick<QemuProcess, "watchdog">;
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

  constructor(options: HangWatchOptions) {
    this.options = options;
    this.detector = new SilenceDetector(options.hungMs, monotonicMs());
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
    void this.ask();
    if (this.detector.tick(monotonicMs()) === "lost") this.hangs = true;
    this.alarm(this.hangs, this.hangs ? `${who} does not answer: it hangs` : `${who} answers again`);
    if (this.hangs) onHung(`${who} has given no sign of life for ${hungMs} ms`);
  }

  /** One question at a time (I6). Whatever comes back, also a refusal, is a sign of life. */
  private async ask(): Promise<void> {
    if (this.asking) return;
    this.asking = true;
    const { watchdog } = this.options.qemu;
    await watchdog.executeOob("query-yank").catch(() => {});
    this.asking = false;
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
  { config, control, log }: Post,
  qemu: HangWatchOptions["qemu"],
  onHung: () => void,
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
