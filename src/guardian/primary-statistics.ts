/** What is measured at the primary while a VM is protected. */
import { Samples } from "./samples.ts";

export class PrimaryStatistics {
  private readonly pauseMs = new Samples();
  private readonly dirtyPages = new Samples();
  private checkpoints = 0;
  private sinceMs = performance.now();
  private stoppedAtUs: number | undefined;
  private wireBefore = 0;

  /** From here on is counted; `bytesOnWire` is what the link has carried so far. */
  reset(bytesOnWire: number): void {
    this.pauseMs.clear();
    this.dirtyPages.clear();
    this.checkpoints = 0;
    this.sinceMs = performance.now();
    this.stoppedAtUs = undefined;
    this.wireBefore = bytesOnWire;
  }

  /** QMP STOP and RESUME, by QEMU's own clock in microseconds. */
  paused(us: number): void {
    this.stoppedAtUs = us;
  }

  resumed(us: number): void {
    if (this.stoppedAtUs !== undefined) this.pauseMs.add((us - this.stoppedAtUs) / 1000);
    this.stoppedAtUs = undefined;
  }

  captured(pages: number): void {
    this.checkpoints++;
    this.dirtyPages.add(pages);
  }

  summary(bytesOnWire: number): Record<string, unknown> {
    return {
      checkpoints: this.checkpoints,
      ...this.rate(),
      pauseMs: { last: this.pauseMs.last, ...this.pauseMs.summary() },
      dirtyPages: { last: this.dirtyPages.last, ...this.dirtyPages.summary() },
      bytesOnWire: bytesOnWire - this.wireBefore,
    };
  }

  /** Every sample that is kept, to be put together with those of other runs. */
  samples(): Record<string, unknown> {
    return {
      pauseMs: { samples: this.pauseMs.all() },
      dirtyPages: { samples: this.dirtyPages.all() },
      checkpointsPerSecond: this.rate().checkpointsPerSecond,
    };
  }

  private rate(): { checkpointsPerSecond: number; seconds: number } {
    const seconds = (performance.now() - this.sinceMs) / 1000;
    return { checkpointsPerSecond: seconds > 0 ? this.checkpoints / seconds : 0, seconds };
  }
}
