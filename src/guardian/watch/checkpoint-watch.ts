/**
 * Whether checkpoints come about while the VM is protected. While none is acknowledged the VM's output is
 * held and clients wait, and nothing has failed: so an alarm says for what it waits.
 */
import { type PacerSettings, pace } from "../../core/pacer.ts";
import type { PrimaryState, ProtectedState } from "../../core/primary-protocol.ts";
import type { Milliseconds } from "../../core/words.ts";
import type { ControlSocket } from "../control/socket.ts";
import type { Log } from "../log.ts";

/** A client has sent everything again several times by then. */
const LATE_MS = 2_000;
/** A checkpoint is late after so many intervals at least. */
const LATE_INTERVALS = 4;

export interface CheckpointWatchOptions {
  readonly settings: PacerSettings;
  readonly log: Log;
  readonly control: Pick<ControlSocket, "publish">;
}

export class CheckpointWatch {
  private readonly options: CheckpointWatchOptions;
  private readonly lateMs: Milliseconds;
  private acked = -1;
  private sinceMs: Milliseconds = 0;
  /** Why, as it was told last. */
  private told: string | undefined;

  constructor(options: CheckpointWatchOptions) {
    this.options = options;
    this.lateMs = Math.max(LATE_MS, LATE_INTERVALS * options.settings.intervalMs);
  }

  /**
   * To be called several times a second. @param now as of performance.now() @param stands the VM does not
   * run, and an alarm of its own says so
   */
  look(state: PrimaryState, now: Milliseconds, stands = false): void {
    // A VM that is held at a checkpoint was asked to be.
    const waits = state.phase === "protected" && state.capture !== "held" && !stands;
    if (!waits || state.acked !== this.acked) {
      const waitedMs = now - this.sinceMs;
      this.acked = waits ? state.acked : -1;
      this.sinceMs = now;
      this.lower(
        waits ? `checkpoints are acknowledged again, after ${seconds(waitedMs)}` : `the VM is ${state.phase}`,
      );
      return;
    }
    const waitedMs = now - this.sinceMs;
    if (waitedMs > this.lateMs) this.raise(whatFor(state, this.options.settings, now), waitedMs);
  }

  private raise(why: string, waitedMs: Milliseconds): void {
    if (this.told === why) return;
    this.told = why;
    this.tell(
      true,
      `no checkpoint was acknowledged for ${seconds(waitedMs)}, and the VM's output is held: ${why}`,
    );
  }

  private lower(text: string): void {
    if (this.told === undefined) return;
    this.told = undefined;
    this.tell(false, text);
  }

  private tell(raised: boolean, text: string): void {
    const { control, log } = this.options;
    log[raised ? "warn" : "info"](text);
    control.publish({ kind: "alarm", about: "checkpoints", raised, text });
  }
}

function whatFor(state: ProtectedState, settings: PacerSettings, now: Milliseconds): string {
  if (state.capture === "idle")
    return "QEMU has not asked for the next one; is the VM paused, by a full disk for example?";
  if (state.capture !== "requested")
    return `QEMU is taking checkpoint ${state.running}: it waits for what the VM's disks are doing, in a flush for example`;
  const pacing = pace(state.pacer, settings, state, now);
  return pacing.kind === "blocked" && pacing.by === "link"
    ? `checkpoint ${state.running - 1} has not left this host: the links take nothing, or too little`
    : `the backup has not acknowledged checkpoint ${state.acked + 1}: it is on its way, or waits there for the disks of earlier ones`;
}

function seconds(ms: Milliseconds): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
