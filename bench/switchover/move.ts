/**
 * One planned switchover as a client sees it, and what its wait went into. All times are of CLOCK_MONOTONIC,
 * in ms: one clock for both hosts and the client.
 */
import type { ClientGap } from "../../src/lab/client-report.ts";

/** When what happened. */
export interface Move {
  readonly to: string;
  /**
   * The client's longest time without an answer; it may be the epoch before, of which the output was held.
   */
  readonly gapMs: number;
  /**
   * At the old host: the VM is paused, its last checkpoint is acknowledged. As the lab hears of it, a moment
   * later.
   */
  readonly handedOverMs: number;
  /** At the new host. */
  readonly heardMs: number;
  readonly grantedMs: number;
  readonly imagesMs: number;
  readonly loadedMs: number;
  /** When the guardian is told so; the guest may have answered before. */
  readonly runningMs: number;
}

const parts = {
  "of it while the VM went over, from answer to answer": (_move, beganMs, endedMs) => endedMs - beganMs,
  "last answer to HANDOVER: the last checkpoint, and its ack": ({ handedOverMs }, beganMs) =>
    handedOverMs - beganMs,
  "HANDOVER on its way": ({ handedOverMs, heardMs }) => heardMs - handedOverMs,
  "heard to the arbiter's word": ({ heardMs, grantedMs }) => grantedMs - heardMs,
  "heard to images that the VM can have, meanwhile": ({ heardMs, imagesMs }) => imagesMs - heardMs,
  "those to the state loaded, meanwhile": ({ imagesMs, loadedMs }) => loadedMs - imagesMs,
  "word and state there, to the VM running": ({ grantedMs, loadedMs, runningMs }) =>
    runningMs - Math.max(grantedMs, loadedMs),
  "the VM running to the client's next answer": ({ runningMs }, _beganMs, endedMs) => endedMs - runningMs,
} satisfies Record<string, (move: Move, beganMs: number, endedMs: number) => number>;

/**
 * The parts of the gap by name, which is the one in which the VM was nowhere; undefined if the client has not
 * kept it, since it had longer ones.
 */
export function partsOf(
  move: Move,
  gaps: readonly ClientGap[],
): Record<keyof typeof parts, number> | undefined {
  const ms = (ns: string) => Number(BigInt(ns) / 1000n) / 1000;
  const gap = gaps.find(
    ({ beganNs, endedNs }) => ms(beganNs) < move.grantedMs && move.grantedMs < ms(endedNs),
  );
  if (gap === undefined) return undefined;
  const named = Object.entries(parts).map(([name, part]) => [
    name,
    part(move, ms(gap.beganNs), ms(gap.endedNs)),
  ]);
  return Object.fromEntries(named) as Record<keyof typeof parts, number>;
}

/** Median, 95 % and most of each: a line each, in ms. */
export function moveTable(moves: readonly Move[], gaps: readonly ClientGap[]): string {
  const known = moves.map((move) => partsOf(move, gaps)).filter((one) => one !== undefined);
  const rows = [
    row(
      "the client's gap",
      moves.map(({ gapMs }) => gapMs),
    ),
    ...(Object.keys(parts) as (keyof typeof parts)[]).map((name) =>
      row(
        `  ${name}`,
        known.map((one) => one[name]),
      ),
    ),
  ];
  const head = `${"ms".padEnd(60)}${["p50", "p95", "max"].map((text) => text.padStart(8)).join("")}`;
  return [head, ...rows, `(parts of ${known.length} of ${moves.length})`].join("\n");
}

export function percentile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((one, other) => one - other);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

function row(what: string, of: readonly number[]): string {
  return `${what.padEnd(60)}${[0.5, 0.95, 1].map((share) => percentile(of, share).toFixed(1).padStart(8)).join("")}`;
}
