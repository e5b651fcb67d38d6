// When is a silent peer a lost peer? Pure: the time comes in from outside.

export type Silence = "quiet" | "lost";

/**
 * Decides by the clock and by how attentive we were ourselves. Only silence that we sat through awake counts:
 * if our own process stood still (a long garbage collection, SIGSTOP, a starved host), what the peer sent
 * lies unread in the socket, and the hands of the clock prove nothing. So a tick that comes late adds no more
 * than a tick in time would, never concludes by itself, and asks for regular ticks through the last quarter
 * of the window, in which the socket delivers what has arrived.
 *
 * All times are monotonic milliseconds, of a clock that goes on while the host is suspended (os/monotonic). A
 * loss is seen between `detectionMs` and `detectionMs` + one tick after the last byte, later by as long as we
 * were stalled ourselves.
 */
export class SilenceDetector {
  readonly detectionMs: number;
  /** Call tick() this often. */
  readonly tickMs: number;
  readonly #settleMs: number;
  #lastHeardMs: number;
  #lastTickMs: number;
  #wasLate = false;
  /** Silence sat through awake; a stall sets it back. */
  #attentiveMs = 0;
  /** The same, never set back. */
  #awakeMs = 0;

  constructor(detectionMs: number, nowMs: number) {
    if (!(detectionMs > 0)) throw new RangeError(`detection time ${detectionMs} ms: expected more than 0`);
    this.detectionMs = detectionMs;
    this.tickMs = detectionMs / 8;
    this.#settleMs = detectionMs / 4;
    this.#lastHeardMs = nowMs;
    this.#lastTickMs = nowMs;
  }

  /** Any byte from the peer is a sign of life. */
  heard(nowMs: number): void {
    this.#lastHeardMs = nowMs;
    this.#attentiveMs = 0;
    this.#awakeMs = 0;
  }

  /** How long nothing has been heard, by the clock. */
  silentMs(nowMs: number): number {
    return nowMs - this.#lastHeardMs;
  }

  /** "lost" as long as the silence lasts; hearing the peer again makes it "quiet". */
  tick(nowMs: number): Silence {
    const sinceTickMs = nowMs - this.#lastTickMs;
    const silentMs = nowMs - Math.max(this.#lastTickMs, this.#lastHeardMs);
    const late = sinceTickMs > 2 * this.tickMs;
    this.#lastTickMs = nowMs;
    const awakeMs = Math.min(silentMs, late ? this.tickMs : silentMs);
    this.#attentiveMs += awakeMs;
    this.#awakeMs += awakeMs;
    // Only the first late tick in a row sets back: between two late ones the socket was read.
    const stalled = late && !this.#wasLate;
    if (stalled) this.#attentiveMs = Math.min(this.#attentiveMs, this.detectionMs - this.#settleMs);
    this.#wasLate = late;
    if (this.#attentiveMs >= this.detectionMs) return "lost";
    // A process that stalls again and again must still come to a conclusion: I4 does not wait for a good day.
    return !stalled && this.#awakeMs >= 3 * this.detectionMs ? "lost" : "quiet";
  }
}
