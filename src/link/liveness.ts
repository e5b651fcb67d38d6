// Signs of life, both ways: beats when nothing else goes out, and the detection of a silent peer, or of a
// silent path.

import { SilenceDetector } from "../core/silence.ts";
import { monotonicMs } from "../os/monotonic.ts";

export interface Liveness {
  /** A beat this often when nothing else is sent. */
  readonly heartbeatMs?: number;
  /** Silence of all paths for this long is a loss. */
  readonly detectionMs?: number;
  /**
   * A path that is silent for so long while another one is not is given up. Left out: a quarter of the
   * detection time, at least two beats.
   */
  readonly lagMs?: number;
  /**
   * Asked when all paths are silent: a silence that is shorter than so many ms is no loss yet, whatever
   * `detectionMs` says. Left out: 0.
   */
  readonly patienceMs?: () => number;
  /** The peer has been silent for half the detection time (true), or was heard again after that (false). */
  readonly onSuspicion?: (suspected: boolean) => void;
}

/** With the defaults filled in. @throws RangeError if beats could not keep up with the detection */
export function checkedSigns({
  heartbeatMs = HEARTBEAT_MS,
  detectionMs = DETECTION_MS,
  lagMs = Math.max(detectionMs / 4, 2 * heartbeatMs),
  patienceMs = () => 0,
  onSuspicion = () => {},
}: Liveness): Required<Liveness> {
  if (heartbeatMs * 3 > detectionMs) {
    const limit = `a third of the detection time, ${detectionMs} ms`;
    throw new RangeError(`heartbeat every ${heartbeatMs} ms: expected at most ${limit}`);
  }
  return { heartbeatMs, detectionMs, lagMs, patienceMs, onSuspicion };
}

/** A session, as it lives. */
export interface Living {
  readonly lastHeardMs: number;
  /** Says something on each path on which nothing was said for `quietMs`. */
  beat(quietMs: number): void;
  /** Where there are several paths: looks which of them are silent. */
  look(nowMs: number): void;
  atEnd(stop: () => void): void;
}

/** Starts all of it on a session. It ends with that. */
export function watch(
  session: Living,
  several: boolean,
  signs: Required<Liveness>,
  onSilent: (silentMs: number) => void,
): void {
  const { heartbeatMs, lagMs } = signs;
  // Half an interval: so this side is never silent for more than one and a half.
  const beats = setInterval(() => session.beat(heartbeatMs / 2), heartbeatMs);
  session.atEnd(() => clearInterval(beats));
  new SilenceWatch(session, onSilent, signs);
  if (!several) return;
  const looks = setInterval(() => session.look(monotonicMs()), lagMs / 8);
  session.atEnd(() => clearInterval(looks));
}

const HEARTBEAT_MS = 25;
const DETECTION_MS = 200;

/**
 * Watches a session for silence. Calls `onSilent` once per silence, with how long it has lasted; the
 * connections stay as they are: what to do is the caller's business (ask the witness).
 */
class SilenceWatch {
  readonly #session: Living;
  readonly #detector: SilenceDetector;
  readonly #onSilent: (silentMs: number) => void;
  readonly #signs: Required<Liveness>;
  #lastHeardMs: number;
  #told = false;
  #suspected = false;

  constructor(session: Living, onSilent: (silentMs: number) => void, signs: Required<Liveness>) {
    this.#session = session;
    this.#signs = signs;
    this.#onSilent = onSilent;
    this.#lastHeardMs = monotonicMs();
    this.#detector = new SilenceDetector(signs.detectionMs, this.#lastHeardMs);
    const timer = setInterval(() => this.#tick(), this.#detector.tickMs);
    session.atEnd(() => clearInterval(timer));
  }

  #tick(): void {
    const now = monotonicMs();
    const heardMs = this.#session.lastHeardMs;
    if (heardMs > this.#lastHeardMs) {
      this.#lastHeardMs = heardMs;
      this.#detector.heard(heardMs);
      this.#told = false;
    }
    const silence = this.#detector.tick(now);
    const silentMs = this.#detector.silentMs(now);
    this.#suspect(silentMs > this.#signs.detectionMs / 2);
    if (silence === "quiet" || this.#told) return;
    if (silentMs < this.#signs.patienceMs()) return;
    this.#told = true;
    this.#onSilent(silentMs);
  }

  #suspect(suspected: boolean): void {
    if (suspected === this.#suspected) return;
    this.#suspected = suspected;
    this.#signs.onSuspicion(suspected);
  }
}
