/** What is measured at the primary while a VM is protected. */
import type { ResultOf } from "../control/orders.ts";
import type { PrimaryStatus } from "../control/status.ts";
import { Samples } from "./samples.ts";

type Measured = Pick<
  PrimaryStatus,
  "checkpoints" | "checkpointsPerSecond" | "seconds" | "pauseMs" | "dirtyPages" | "bytesOnWire"
>;

export class PrimaryStatistics {
  /** Told apart by microseconds, as QEMU's clock does. */
  private readonly pauseMs = new Samples(1000);
  private readonly dirtyPages = new Samples();
  private checkpoints = 0;
  private sinceMs = performance.now();
  private stoppedAtUs: number | undefined;
  private wireBefore = 0;
  private wireAtEnd = 0;

  /**
   * From here on is counted.
   * @param bytesOnWire what the link has carried in this protection so far; undefined: there is none
   */
  reset(bytesOnWire: number | undefined): void {
    this.pauseMs.clear();
    this.dirtyPages.clear();
    this.checkpoints = 0;
    this.sinceMs = performance.now();
    this.stoppedAtUs = undefined;
    this.wireBefore = bytesOnWire ?? this.wireAtEnd;
  }

  /** The protection is over; what it came to stays until the next. */
  ended(bytesOnWire: number): void {
    this.wireAtEnd = bytesOnWire;
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

  /** @param bytesOnWire as above */
  summary(bytesOnWire: number | undefined): Measured {
    return {
      checkpoints: this.checkpoints,
      ...this.rate(),
      pauseMs: { last: this.pauseMs.last, ...this.pauseMs.summary() },
      dirtyPages: { last: this.dirtyPages.last, ...this.dirtyPages.summary() },
      bytesOnWire: (bytesOnWire ?? this.wireAtEnd) - this.wireBefore,
    };
  }

  /**
   * Samples from number `from` on, a bounded slice of each kind, to be put together with those of other runs.
   */
  samples(from = 0): ResultOf<"samples"> {
    const slice = (samples: Samples) => ({ count: samples.count, ...samples.slice(from) });
    return {
      pauseMs: slice(this.pauseMs),
      dirtyPages: slice(this.dirtyPages),
      checkpointsPerSecond: this.rate().checkpointsPerSecond,
    };
  }

  private rate(): { checkpointsPerSecond: number; seconds: number } {
    const seconds = (performance.now() - this.sinceMs) / 1000;
    return { checkpointsPerSecond: seconds > 0 ? this.checkpoints / seconds : 0, seconds };
  }
}
