/** The words of the primary's state machine: its states, what can happen to it, and what it orders. */
import type { PacerState } from "./pacer.ts";
import type { Report } from "./transition.ts";
import type { EpochId, Generation, Milliseconds } from "./words.ts";

export type PrimaryState =
  /** The VM runs and nothing is held. */
  | { readonly phase: "unprotected"; readonly generation: Generation }
  | { readonly phase: "connecting"; readonly generation: Generation }
  /** First pass. The VM runs and nothing is held: the backup cannot take over yet. */
  | { readonly phase: "syncing"; readonly generation: Generation }
  | ProtectedState
  | HandingOverState
  /** The backup was told that protection ends. Until it has answered, it might still take over. */
  | LeavingState
  | ArbitratingState
  /** Output is free; QEMU is brought back to where protection can start again. */
  | { readonly phase: "ending"; readonly generation: Generation }
  /**
   * Another host owns the VM. This one must never run again. `planned`: it was handed over, and this host may
   * become the backup.
   */
  | { readonly phase: "superseded"; readonly generation: Generation; readonly planned: boolean };

/**
 * `capturing-to-hold`: the VM will stay paused after this checkpoint; `capturing-to-proceed`: it would, but
 * nobody waits for that any more; `held`: it is paused.
 */
export type CaptureState =
  | "idle"
  | "requested"
  | "capturing"
  | "capturing-to-hold"
  | "capturing-to-proceed"
  | "held";

export interface ProtectedState {
  readonly phase: "protected";
  readonly generation: Generation;
  /** The epoch that runs, or whose checkpoint is being captured. */
  readonly running: EpochId;
  /** The newest acknowledged checkpoint; -1 before checkpoint 0 is. */
  readonly acked: EpochId;
  readonly capture: CaptureState;
  readonly capturedMs: Milliseconds;
  readonly pacer: PacerState;
  /** The first checkpoint from this one on keeps the VM paused, to be looked at, until `proceed-asked`. */
  readonly holdAt: EpochId | undefined;
  /**
   * The next checkpoint keeps the VM paused, and the backup is asked to run it from there. Not while somebody
   * holds the VM.
   */
  readonly switchover: boolean;
  /** Leave once the capture under way is done. */
  readonly leaveBecause: string | undefined;
  /**
   * Acks of earlier checkpoints release nothing: the backup may have given this host up since it sent them.
   * An ack of this one shows that it has not, for the checkpoint was sent after the doubt had come up.
   */
  readonly releaseFrom: EpochId;
}

export interface LeavingState {
  readonly phase: "leaving";
  readonly generation: Generation;
  readonly acked: EpochId;
  /** As in `protected`. */
  readonly releaseFrom: EpochId;
}

/**
 * The VM is paused at checkpoint `acked`, and the backup was asked to run it from there. It may be doing so:
 * the VM may run on here only after the backup's refusal or the arbiter's word.
 */
export interface HandingOverState {
  readonly phase: "handing-over";
  readonly generation: Generation;
  readonly acked: EpochId;
  /**
   * The capture thread waits for a `proceed`. If not, it has failed: the VM is paused until capture is taken
   * out.
   */
  readonly held: boolean;
  /** A part has failed meanwhile: should the backup refuse, protection ends. */
  readonly leaveBecause: string | undefined;
}

/** The backup is lost. Output stays held until the arbiter has spoken. */
export interface ArbitratingState {
  readonly phase: "arbitrating";
  readonly generation: Generation;
  readonly acked: EpochId;
  /** The checkpoint under way was to keep the VM paused; it must not stay so. */
  readonly proceedWhenCaptured: boolean;
  /** The VM was handed over and is paused until the arbiter gives it back. */
  readonly proceedWhenGranted: boolean;
  /** The backup was lost in a handover. */
  readonly planned: boolean;
}

export type PrimaryEvent =
  | { readonly type: "protect-asked" }
  /** Protection is to end. `because`: why, if not since somebody has said so. */
  | { readonly type: "stop-asked"; readonly because?: string }
  /** The backup has agreed to protect the VM. */
  | { readonly type: "link-up" }
  | { readonly type: "link-lost"; readonly reason: string }
  /** Checkpoint 0 is in staging and the VM is paused. */
  | { readonly type: "first-pass-done" }
  | { readonly type: "requested" }
  /**
   * The VM does not run at this instant, so the checkpoint that was ordered is not begun. QEMU's request
   * stands: another `requested` follows.
   */
  | { readonly type: "capture-put-off" }
  | { readonly type: "captured"; readonly epoch: EpochId; readonly bytes: number }
  /** All of the checkpoint has left staging. */
  | { readonly type: "sent"; readonly epoch: EpochId }
  | { readonly type: "acked"; readonly epoch: EpochId }
  /**
   * What is heard now of the backup comes after a silence of half the detection time, or this process stood
   * still: it was said, perhaps, before the backup took over. To be fed before what is heard.
   */
  | { readonly type: "heard-late" }
  | { readonly type: "goodbye-ok" }
  /** The backup cannot go on with the VM, holds no checkpoint of it any more, and so will not ask for it. */
  | { readonly type: "unable"; readonly reason: string }
  | { readonly type: "takeover"; readonly generation: Generation }
  | { readonly type: "verdict"; readonly granted: boolean; readonly generation: Generation }
  /** QEMU or the capture thread gave up: no `captured` will come any more. The VM runs. */
  | { readonly type: "capture-failed"; readonly reason: string }
  /** What holds the output gave up. It is held, or lost; capture goes on. */
  | { readonly type: "output-failed"; readonly reason: string }
  /**
   * Writes to a disk are no longer copied. Capture goes on, but the end of a checkpoint with a write missing
   * is never sent, so the backup cannot acknowledge it.
   */
  | { readonly type: "disk-failed"; readonly reason: string }
  | { readonly type: "capture-ended" }
  /**
   * The hypervisor's process is there, and has given no sign of life for a time that no load explains, or
   * says itself that it can run the VM no more. May be told again and again.
   */
  | { readonly type: "hypervisor-hung"; readonly reason: string }
  /** `atEpoch`: not before that checkpoint. */
  | { readonly type: "hold-asked"; readonly atEpoch: EpochId }
  | { readonly type: "proceed-asked" }
  /** The VM is to run on the backup's host from now on. */
  | { readonly type: "switchover-asked" }
  /**
   * The backup does not run the VM on the strength of our handover. `stoodDown`: nor on any other, and
   * `generation` is the one that holds now; otherwise it is the backup still.
   */
  | {
      readonly type: "handover-refused";
      readonly reason: string;
      readonly stoodDown: boolean;
      readonly generation: Generation;
    }
  | { readonly type: "tick" };

export type PrimaryEffect =
  | { readonly type: "connect" }
  | { readonly type: "start-capture" }
  /** First hold all output from now on, then let the VM run as epoch 1. */
  | { readonly type: "begin-epochs" }
  /** Pause, drain into staging, cut, run on. Only when QEMU has requested it. */
  | { readonly type: "capture"; readonly epoch: EpochId; readonly hold: boolean }
  | { readonly type: "proceed" }
  /** Only after `upTo` was acknowledged (I1). */
  | { readonly type: "release"; readonly upTo: EpochId }
  /** Only when the backup can no longer take over (I3). */
  | { readonly type: "release-all" }
  | { readonly type: "end-capture" }
  | { readonly type: "send-goodbye" }
  /** Only while the VM is paused at checkpoint `epoch`, and that is acknowledged. */
  | { readonly type: "send-handover"; readonly epoch: EpochId }
  | { readonly type: "close-link" }
  | { readonly type: "ask-arbiter"; readonly generation: Generation }
  | { readonly type: "kill-vm"; readonly reason: string }
  | { readonly type: "remind-hypervisor" }
  /** Send a tick at this time; a later `wake` replaces an earlier one. */
  | { readonly type: "wake"; readonly atMs: Milliseconds }
  | Report;
