// One path of a session: the connection that it has now, and whether that is well.

import { SilenceDetector } from "../core/silence.ts";
import type { Connection } from "./connection.ts";
import type { Counted } from "./stream.ts";

/**
 * A path that came back is not trusted with the stream for so many detection times; twice as long after each
 * loss that follows soon.
 */
const REST = 5;
const MOST_REST = 300;

export interface PathStatus {
  readonly path: number;
  readonly up: boolean;
  /** Since when it has been so; undefined if it was never up. */
  readonly since: Date | undefined;
  /** Whether this side's stream goes over it. */
  readonly carries: boolean;
}

export class Path implements Counted {
  readonly index: number;
  connection: Connection | undefined;
  expected: number | undefined;
  /** Bytes that had come on it when the peer was last told how much has come. */
  confirmedBytes = 0;
  readonly #lagMs: number;
  readonly #detectionMs: number;
  #detector: SilenceDetector | undefined;
  #heardMs = 0;
  #upMs = 0;
  #since: Date | undefined;
  #restMs: number;

  constructor(
    index: number,
    { lagMs, detectionMs }: { readonly lagMs: number; readonly detectionMs: number },
  ) {
    this.index = index;
    this.#lagMs = lagMs;
    this.#detectionMs = detectionMs;
    this.#restMs = REST * detectionMs;
  }

  open(connection: Connection, nowMs: number): void {
    this.connection = connection;
    this.expected = undefined;
    this.confirmedBytes = 0;
    this.#detector = new SilenceDetector(this.#lagMs, nowMs);
    this.#heardMs = connection.lastHeardMs;
    this.#upMs = nowMs;
    this.#since = new Date();
  }

  close(nowMs: number): void {
    this.connection = undefined;
    this.#since = new Date();
    const [least, most] = [REST * this.#detectionMs, MOST_REST * this.#detectionMs];
    const wasBrief = nowMs - this.#upMs < most;
    this.#restMs = wasBrief ? Math.min(2 * this.#restMs, most) : least;
  }

  status(carries: boolean): PathStatus {
    const { index, connection } = this;
    return { path: index, up: connection !== undefined, since: this.#since, carries };
  }

  /** It was heard about as lately as any. */
  isWell(lastHeardMs: number): boolean {
    const { connection } = this;
    return connection !== undefined && lastHeardMs - connection.lastHeardMs < this.#lagMs / 2;
  }

  /** It has been up for so long that the stream may come back to it. */
  isRested(nowMs: number, lastHeardMs: number): boolean {
    return this.isWell(lastHeardMs) && nowMs - this.#upMs >= this.#restMs;
  }

  /**
   * To be called often. Whether it has been silent for too long while another path was not. Silence of all of
   * them says nothing about a path but much about the peer, or about this process.
   */
  lags(nowMs: number, lastHeardMs: number): boolean {
    const { connection } = this;
    if (connection === undefined || this.#detector === undefined) return false;
    if (connection.lastHeardMs > this.#heardMs) {
      this.#heardMs = connection.lastHeardMs;
      this.#detector.heard(this.#heardMs);
    }
    const silence = this.#detector.tick(nowMs);
    return silence === "lost" && !this.isWell(lastHeardMs);
  }
}
