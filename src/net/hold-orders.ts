/** What the guardian's main thread and the thread that holds output tell each other. */
import type { EpochId } from "../core/words.ts";

export interface HoldWorkerData {
  readonly nics: readonly { readonly capturePath: string; readonly injectPath: string }[];
  /** An `EpochCell`. */
  readonly epoch: SharedArrayBuffer;
  /** Words of 64 bits, see `HOLD_WORD`; written by the holding thread. */
  readonly words: SharedArrayBuffer;
  readonly limitBytes: number;
}

export const HOLD_WORD = { heldBytes: 0, droppedFrames: 1 } as const;
export const HOLD_WORD_COUNT = 2;

export type HoldOrder =
  /**
   * Everything passes up to and with this epoch; of CLOCK_BOOTTIME after `untilMs`, nothing: an order that
   * was given before this process stood still may be carried out after another host has taken over (I3).
   */
  | { readonly kind: "release"; readonly upTo: EpochId; readonly untilMs: number }
  /**
   * The VM is paused at checkpoint `upTo`, which is acknowledged: what waits is of no later epoch, whatever
   * it was tagged when it was read. It goes straight to the taps, for QEMU passes nothing on while its VM is
   * paused. `taps` are descriptors, one a card. The time counts as above.
   */
  | {
      readonly kind: "let-go";
      readonly upTo: EpochId;
      readonly untilMs: number;
      readonly taps: readonly number[];
    }
  /** Hold everything of later epochs. */
  | { readonly kind: "hold"; readonly upTo: EpochId };

export type HoldReport =
  | { readonly kind: "listening" }
  | { readonly kind: "holding"; readonly upTo: EpochId }
  /**
   * QEMU has closed this NIC's capture socket, and all that came over it was passed on and the inject socket
   * ended.
   */
  | { readonly kind: "drained"; readonly nic: number }
  /** What was to be let go has left, or could not. */
  | { readonly kind: "gone" }
  /** A frame could not be written to the tap. */
  | { readonly kind: "lost"; readonly nic: number; readonly error: string }
  | { readonly kind: "failed"; readonly error: string };
