/**
 * What a client of the lab has to say: how many answers, what was wrong with them, and how long it waited.
 */
import { createHistogram } from "node:perf_hooks";
import { monotonicNs } from "../os/monotonic.ts";

export interface ClientProgress {
  readonly kind: "progress";
  readonly atNs: string;
  readonly connected: boolean;
  readonly connections: number;
  readonly resets: number;
  readonly requests: number;
  readonly acked: number;
  /** The counter's highest value that an answer told. */
  readonly highest: number;
  /** Answers per second since the line before. */
  readonly rate: number;
  /** Longest time without an answer since the line before, one still open included. */
  readonly lastGapMs: number;
}

export interface ClientGap {
  readonly beganNs: string;
  readonly endedNs: string;
}

export interface ClientSummary {
  readonly kind: "summary";
  /** Connections that came about; 1 when nothing went wrong. */
  readonly connections: number;
  /** Connections that broke: reset, or closed by the other side. */
  readonly resets: number;
  readonly requests: number;
  readonly acked: number;
  /** The counter's highest value that an answer told; 0 without one. */
  readonly highest: number;
  /** Acknowledged increments that later answers did not contain. */
  readonly lost: number;
  /** Answers not above the one before. */
  readonly wentBack: number;
  /** Increments applied more often than asked for. */
  readonly repeated: number;
  /** Longest time between two answers, or between start or end and the answer nearest to it. */
  readonly longestGapMs: number;
  /** The longest of these gaps, longest first. */
  readonly gaps: readonly ClientGap[];
  /** Request to answer. Zeros when there was no answer. */
  readonly latencyMs: {
    readonly min: number;
    readonly p50: number;
    readonly p95: number;
    readonly p99: number;
    readonly max: number;
  };
}

/** What is found wrong with the answers. */
type Audit = Pick<ClientSummary, "highest" | "lost" | "wentBack" | "repeated">;

/** A client that waits for each checkpoint has a gap an epoch: enough for half a minute of that. */
const gapsKept = 1024;

/** Keeps count of a client's requests and answers, one request at a time. */
export class ClientReport {
  connected = false;
  connections = 0;
  resets = 0;
  requests = 0;
  readonly #audit: Audit;
  readonly #latency = createHistogram({ lowest: 1, highest: 3_600_000_000_000, figures: 3 });
  #acked = 0;
  #lastAnswerNs = nowNs();
  /** Longest first. */
  #gaps: { beganNs: bigint; endedNs: bigint }[] = [];
  #progress = { atNs: nowNs(), acked: 0, gapNs: 0n };

  /** @param audit which the client keeps up to date */
  constructor(audit: Audit) {
    this.#audit = audit;
  }

  /** An answer has come, to what was first asked at `sentNs`. */
  answered(sentNs: bigint): void {
    const at = nowNs();
    this.#latency.record(at - sentNs || 1n);
    this.#noteGap(at);
    this.#lastAnswerNs = at;
    this.#acked += 1;
  }

  #noteGap(endedNs: bigint): void {
    const beganNs = this.#lastAnswerNs;
    const gapNs = endedNs - beganNs;
    if (gapNs > this.#progress.gapNs) this.#progress.gapNs = gapNs;
    const shortest = this.#gaps.at(-1);
    const full = this.#gaps.length === gapsKept;
    if (full && shortest !== undefined && gapNs <= shortest.endedNs - shortest.beganNs) return;
    if (full) this.#gaps.pop();
    const place = this.#gaps.findIndex((gap) => gapNs > gap.endedNs - gap.beganNs);
    this.#gaps.splice(place === -1 ? this.#gaps.length : place, 0, { beganNs, endedNs });
  }

  progress(): ClientProgress {
    const atNs = nowNs();
    const before = this.#progress;
    const openGapNs = atNs - this.#lastAnswerNs;
    this.#progress = { atNs, acked: this.#acked, gapNs: 0n };
    return {
      kind: "progress",
      atNs: String(atNs),
      connected: this.connected,
      connections: this.connections,
      resets: this.resets,
      requests: this.requests,
      acked: this.#acked,
      highest: this.#audit.highest,
      rate: Math.round(((this.#acked - before.acked) * 1000) / Math.max(milliseconds(atNs - before.atNs), 1)),
      lastGapMs: Math.max(milliseconds(openGapNs), milliseconds(before.gapNs)),
    };
  }

  summary(): ClientSummary {
    this.#noteGap(nowNs());
    const percentile = (percent: number) => (this.#acked === 0 ? 0 : this.#latency.percentile(percent) / 1e6);
    const { beganNs, endedNs } = this.#gaps[0] ?? { beganNs: 0n, endedNs: 0n };
    return {
      kind: "summary",
      connections: this.connections,
      resets: this.resets,
      requests: this.requests,
      acked: this.#acked,
      highest: this.#audit.highest,
      lost: this.#audit.lost,
      wentBack: this.#audit.wentBack,
      repeated: this.#audit.repeated,
      longestGapMs: milliseconds(endedNs - beganNs),
      gaps: this.#gaps.map((gap) => ({ beganNs: String(gap.beganNs), endedNs: String(gap.endedNs) })),
      latencyMs: {
        min: this.#acked === 0 ? 0 : this.#latency.min / 1e6,
        p50: percentile(50),
        p95: percentile(95),
        p99: percentile(99),
        max: this.#acked === 0 ? 0 : this.#latency.max / 1e6,
      },
    };
  }
}

export function nowNs(): bigint {
  return monotonicNs();
}

function milliseconds(ns: bigint): number {
  return Number(ns / 1000n) / 1000;
}
