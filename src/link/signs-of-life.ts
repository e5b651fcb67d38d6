// Signs of life, both ways: beats when nothing else goes out, and the detection of a silent peer.

import { encodeHeartbeat } from "../codec/replication-encode.ts";
import type { FrameIds } from "../codec/replication-header.ts";
import { SilenceDetector } from "../core/silence.ts";
import type { Connection } from "./connection.ts";

export interface SignsOfLife {
  /** A beat this often when nothing else is sent. */
  readonly heartbeatMs?: number;
  /** Silence for this long is a loss. */
  readonly detectionMs?: number;
  /**
   * Whether a loss would change who runs the VM. While it would not (a first pass), haste gains nothing, and a busy host is
   * given PATIENCE_MS. Left out: always.
   */
  readonly urgent?: () => boolean;
  /** The peer has been silent for half the detection time (true), or was heard again after that (false). */
  readonly onSuspicion?: (suspected: boolean) => void;
}

/** With the defaults filled in. @throws RangeError if beats could not keep up with the detection */
export function checkedSigns({
  heartbeatMs = HEARTBEAT_MS,
  detectionMs = DETECTION_MS,
  urgent = () => true,
  onSuspicion = () => {},
}: SignsOfLife): Required<SignsOfLife> {
  if (heartbeatMs * 3 > detectionMs) {
    const limit = `a third of the detection time, ${detectionMs} ms`;
    throw new RangeError(`heartbeat every ${heartbeatMs} ms: expected at most ${limit}`);
  }
  return { heartbeatMs, detectionMs, urgent, onSuspicion };
}

/** Starts both on a connection. They end with it. */
export function watch(
  connection: Connection,
  ids: FrameIds,
  onSilent: (silentMs: number) => void,
  signs: Required<SignsOfLife>,
): void {
  new Heartbeat(connection, ids, signs.heartbeatMs);
  new SilenceWatch(connection, onSilent, signs);
}

const HEARTBEAT_MS = 25;
const DETECTION_MS = 200;
const PATIENCE_MS = 5000;

/**
 * Sends HEARTBEATs on a connection. Any traffic counts as life, so a beat goes out only if nothing was sent
 * lately; and none while bytes wait to be sent, since it would wait behind them and only grow the queue (I6).
 */
class Heartbeat {
  readonly #connection: Connection;
  readonly #ids: FrameIds;
  readonly #intervalMs: number;
  #sequence = 0;

  constructor(connection: Connection, ids: FrameIds, intervalMs: number) {
    this.#connection = connection;
    this.#ids = ids;
    this.#intervalMs = intervalMs;
    const timer = setInterval(() => this.#beat(), intervalMs);
    connection.atEnd(() => clearInterval(timer));
  }

  #beat(): void {
    const connection = this.#connection;
    if (connection.bufferedBytes > 0) return;
    // Half an interval: so this side is never silent for more than one and a half.
    if (performance.now() - connection.lastSentMs < this.#intervalMs / 2) return;
    connection.send(encodeHeartbeat(this.#ids, this.#sequence++));
  }
}

/**
 * Watches a connection for silence. Calls `onSilent` once per silence, with how long it has lasted; the
 * connection stays as it is: what to do is the caller's business (ask the witness).
 */
class SilenceWatch {
  readonly #connection: Connection;
  readonly #detector: SilenceDetector;
  readonly #onSilent: (silentMs: number) => void;
  readonly #signs: Required<SignsOfLife>;
  #lastHeardMs: number;
  #told = false;
  #suspected = false;

  constructor(connection: Connection, onSilent: (silentMs: number) => void, signs: Required<SignsOfLife>) {
    this.#connection = connection;
    this.#signs = signs;
    this.#onSilent = onSilent;
    this.#lastHeardMs = performance.now();
    this.#detector = new SilenceDetector(signs.detectionMs, this.#lastHeardMs);
    const timer = setInterval(() => this.#tick(), this.#detector.tickMs);
    connection.atEnd(() => clearInterval(timer));
  }

  #tick(): void {
    const connection = this.#connection;
    const now = performance.now();
    // A side that does not read cannot tell silence from its own deafness.
    const heardMs = connection.paused ? now : connection.lastHeardMs;
    if (heardMs > this.#lastHeardMs) {
      this.#lastHeardMs = heardMs;
      this.#detector.heard(heardMs);
      this.#told = false;
    }
    const silence = this.#detector.tick(now);
    const silentMs = this.#detector.silentMs(now);
    this.#suspect(silentMs > this.#signs.detectionMs / 2);
    if (silence === "quiet" || this.#told) return;
    if (silentMs < PATIENCE_MS && !this.#signs.urgent()) return;
    this.#told = true;
    this.#onSilent(silentMs);
  }

  #suspect(suspected: boolean): void {
    if (suspected === this.#suspected) return;
    this.#suspected = suspected;
    this.#signs.onSuspicion(suspected);
  }
}
