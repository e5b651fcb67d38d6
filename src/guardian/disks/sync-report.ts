/**
 * Tells of a disk's sync while it goes on: what was decided and why, how far it is, how fast, and what it
 * came to.
 */
import type { DiskSync } from "../../disk/sync.ts";
import type { SyncProgress, SyncSummary } from "../control/status.ts";
import type { Decision } from "./dirty-records.ts";

const EVERY_MS = 2_000;
const MIB = 1 << 20;

const NAMES = {
  blank: "first sync, of all that is not zero",
  compare: "resync by comparing hashes of blocks",
  records: "quick resync, of what is on record",
} as const;

export class SyncReport {
  private readonly name: string;
  private readonly decision: Decision;
  private readonly sync: DiskSync;
  private readonly wireBytes: () => number;
  private readonly wireBefore: number;
  private readonly report: (text: string) => void;
  private readonly beganMs = performance.now();
  private readonly timer: NodeJS.Timeout;
  private last = { atMs: this.beganMs, doneBytes: 0 };
  private bytesPerSecond = 0;

  constructor(
    { disk, bytes }: { readonly disk: number; readonly bytes: number },
    decision: Decision,
    sync: DiskSync,
    wireBytes: () => number,
    report: (text: string) => void,
  ) {
    this.name = `disk${disk}`;
    this.decision = decision;
    this.sync = sync;
    this.wireBytes = wireBytes;
    this.wireBefore = wireBytes();
    this.report = report;
    report(`${this.name} (${mib(bytes)} MiB): ${NAMES[decision.plan]}, because ${decision.why}`);
    this.timer = setInterval(() => this.tell(), EVERY_MS);
  }

  /** `secondsLeft` is undefined before there is a rate. */
  get now(): SyncProgress {
    const { totalBytes, doneBytes, sentBytes } = this.sync.progress;
    const rate = this.bytesPerSecond;
    return {
      disk: this.name,
      way: this.decision.plan,
      totalBytes,
      doneBytes,
      sentBytes,
      wireBytes: this.wireBytes() - this.wireBefore,
      bytesPerSecond: Math.round(rate),
      ...(rate > 0 ? { secondsLeft: Math.ceil((totalBytes - doneBytes) / rate) } : {}),
    };
  }

  end(): SyncSummary {
    const { totalBytes, sentBytes } = this.sync.progress;
    const seconds = (performance.now() - this.beganMs) / 1000;
    const wireBytes = this.wireBytes() - this.wireBefore;
    this.report(
      `${this.name}: in step after ${seconds.toFixed(1)} s; ${mib(totalBytes)} MiB looked at, ${mib(sentBytes)} MiB sent, ` +
        `${wireBytes} bytes on the wire with what the VM wrote meanwhile`,
    );
    const { plan, why } = this.decision;
    return { disk: this.name, way: plan, why, seconds, totalBytes, sentBytes, wireBytes };
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private tell(): void {
    const { totalBytes, doneBytes } = this.sync.progress;
    const now = performance.now();
    this.bytesPerSecond = ((doneBytes - this.last.doneBytes) * 1000) / (now - this.last.atMs);
    this.last = { atMs: now, doneBytes };
    const left =
      this.bytesPerSecond > 0
        ? `${Math.ceil((totalBytes - doneBytes) / this.bytesPerSecond)} s`
        : "unknown time";
    this.report(
      `${this.name}: ${mib(doneBytes)} of ${mib(totalBytes)} MiB, ${mib(this.bytesPerSecond)} MiB/s, ${left} left`,
    );
  }
}

function mib(bytes: number): string {
  return (bytes / MIB).toFixed(1);
}
