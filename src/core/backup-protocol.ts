/** The words of the backup's state machine: its states, what can happen to it, and what it orders. */
import type { Report } from "./transition.ts";
import type { EpochId, Generation } from "./words.ts";

export type BackupState =
  /** No primary. */
  | { readonly phase: "waiting"; readonly generation: Generation }
  /** A first pass is coming in. The images are no whole checkpoint. */
  | { readonly phase: "filling"; readonly generation: Generation }
  | ArmedState
  | ArbitratingState
  | RecoveringState
  | { readonly phase: "running"; readonly generation: Generation }
  /** The VM is not ours, or the standby could not run it; `reason` says which. */
  | { readonly phase: "stood-down"; readonly generation: Generation; readonly reason: string };

export interface Holding {
  readonly generation: Generation;
  /** The newest checkpoint that is whole in memory, and acknowledged. */
  readonly acked: EpochId;
  /** The newest checkpoint that is in the images; -1 while checkpoint 0 is not. */
  readonly committed: EpochId;
}

export interface ArmedState extends Holding {
  readonly phase: "armed";
}

/** The primary is lost, or has asked us to run the VM; the arbiter was asked. */
export interface ArbitratingState extends Holding {
  readonly phase: "arbitrating";
  /** The primary waits, with the VM paused, for our TAKEOVER or our refusal. */
  readonly planned: boolean;
}

/** The VM is ours. The last acknowledged checkpoint is committed, then the standby runs. */
export interface RecoveringState extends Holding {
  readonly phase: "recovering";
  readonly planned: boolean;
}

export type BackupEvent =
  | { readonly type: "session-opened"; readonly generation: Generation }
  /** Every byte of the checkpoint is in staging, and the sums are right. */
  | { readonly type: "checkpoint-whole"; readonly epoch: EpochId }
  | { readonly type: "committed"; readonly epoch: EpochId }
  | { readonly type: "goodbye" }
  | { readonly type: "primary-lost"; readonly reason: string }
  | { readonly type: "verdict"; readonly granted: boolean; readonly generation: Generation }
  | { readonly type: "standby-runs" }
  /**
   * It does not run the VM and never will: in a planned switchover the primary's copy runs on because of
   * this.
   */
  | { readonly type: "standby-failed"; readonly reason: string }
  /** The primary has paused the VM at checkpoint `epoch` and wants it to run here. */
  | { readonly type: "handover-asked"; readonly epoch: EpochId }
  /** The arbiter has not answered within the time that a paused VM can wait. */
  | { readonly type: "handover-expired" }
  /**
   * The images cannot take what has come (a full disk, say): they are not whole, and will not be unless it is
   * tried again.
   */
  | { readonly type: "commit-failed"; readonly reason: string };

export type BackupEffect =
  /** Only once the checkpoint is whole in memory. */
  | { readonly type: "ack"; readonly epoch: EpochId }
  /** Put checkpoint `epoch` into the images, after all earlier ones (I2). */
  | { readonly type: "commit"; readonly epoch: EpochId }
  /**
   * The images did not take the checkpoint after the last committed one: put it in anew, after a while, and
   * then those behind it.
   */
  | { readonly type: "commit-again"; readonly reason: string }
  | { readonly type: "drop-incomplete" }
  /** The images mean nothing any more: drop every checkpoint, committed or not. */
  | { readonly type: "forget" }
  | { readonly type: "goodbye-ok" }
  | { readonly type: "close-link" }
  | { readonly type: "ask-arbiter"; readonly generation: Generation }
  /**
   * Tell the old primary, should it still hear us, that it must stop: the VM goes on here from checkpoint
   * `epoch`. Then close the link.
   */
  | { readonly type: "takeover"; readonly generation: Generation; readonly epoch: EpochId }
  /**
   * The VM does not run here. With `stoodDown`, nor ever will (I3). The primary closes the link then: closed
   * by us, it might not hear this.
   */
  | { readonly type: "refuse-handover"; readonly reason: string; readonly stoodDown: boolean }
  /** Tell the primary that this host can no longer take over. Then close the link. */
  | { readonly type: "unable"; readonly reason: string }
  /**
   * Only once checkpoint `epoch`, the last acknowledged one, is committed (I2), and after the arbiter's word
   * (I3).
   */
  | { readonly type: "run-standby"; readonly epoch: EpochId }
  | Report;
