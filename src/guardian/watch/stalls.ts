/**
 * How long this process was kept from its work: a guardian that stalls for the detection time is taken for
 * dead.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";

export class Stalls {
  private readonly histogram = monitorEventLoopDelay({ resolution: 10 });

  constructor() {
    this.histogram.enable();
  }

  /** The longest stall since the start. */
  get longestMs(): number {
    return Math.max(0, this.histogram.max / 1e6 - 10);
  }
}
