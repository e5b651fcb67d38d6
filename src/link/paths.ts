// The paths of a session: which are up, which are well, and which is to carry this side's stream.

import { monotonicMs } from "../os/monotonic.ts";
import type { Connection } from "./connection.ts";
import type { Liveness } from "./liveness.ts";
import { Path } from "./path.ts";

export class Paths {
  /** In the order of configuration. */
  readonly all: readonly Path[];
  #lastHeardMs = monotonicMs();

  constructor(count: number, signs: Required<Liveness>) {
    this.all = Array.from({ length: count }, (_, index) => new Path(index, signs));
  }

  /** Of those that are up. */
  get connections(): Connection[] {
    return this.all.flatMap(({ connection }) => connection ?? []);
  }

  /**
   * When anything was last heard, on whichever. Who does not read cannot tell silence from its own deafness.
   */
  get lastHeardMs(): number {
    for (const { lastHeardMs, paused } of this.connections)
      this.#lastHeardMs = Math.max(this.#lastHeardMs, paused ? monotonicMs() : lastHeardMs);
    return this.#lastHeardMs;
  }

  close(path: Path, nowMs: number): void {
    this.#lastHeardMs = this.lastHeardMs;
    path.close(nowMs);
  }

  /** To be called often. What was silent for too long while others were heard. */
  lagging(nowMs: number): Connection[] {
    const { lastHeardMs } = this;
    return this.all.flatMap((path) => (path.lags(nowMs, lastHeardMs) ? (path.connection ?? []) : []));
  }

  /** One that should carry rather than this one. */
  betterThan(path: Path, nowMs: number): Path | undefined {
    return this.all.slice(0, path.index).find((one) => one.isRested(nowMs, this.lastHeardMs));
  }

  /** The first that is well, or else the one that was heard last. Undefined if none is up. */
  choose(): Path | undefined {
    const { lastHeardMs } = this;
    const well = this.all.find((path) => path.isWell(lastHeardMs));
    if (well !== undefined) return well;
    const up = this.all.filter(({ connection }) => connection !== undefined);
    const heardMs = ({ connection }: Path) => connection?.lastHeardMs ?? 0;
    return up.sort((a, b) => heardMs(b) - heardMs(a))[0];
  }
}
