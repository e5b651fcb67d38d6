/** What the guardian's main thread and the capture thread tell each other. */
import type { PageList, RamBlock } from "../../codec/replication.ts";
import type { SharedStaging } from "../../memory/staging.ts";

/** Words of shared memory between the two threads. */
export const WORD = {
  /** Grows with every order; the capture thread sleeps on it. */
  bell: 0,
  /** The order to carry out next; 0 when taken. */
  order: 1,
  /** 1: stop at the next point where the VM runs. */
  quit: 2,
} as const;
export const WORD_COUNT = 3;

export const ORDER = {
  none: 0,
  /** The first pass is in; let the VM run as epoch 1. */
  begin: 1,
  /** End the epoch: take a checkpoint and let the VM run on. */
  capture: 2,
  /** The same, but keep the VM paused until `proceed`. */
  captureAndHold: 3,
  proceed: 4,
} as const;

export interface CaptureWorkerData {
  readonly fd: number;
  readonly words: SharedArrayBuffer;
  /** An `EpochCell`: the epoch that output and disk writes read now belong to. */
  readonly epoch: SharedArrayBuffer;
  readonly staging: SharedStaging;
}

/** Pages that lie in one chunk of staging, which must be given back once they are sent. */
export interface PageBatch extends Omit<PageList, "source"> {
  readonly chunk: number;
}

export type CaptureReport =
  | { readonly kind: "layout"; readonly header: Uint8Array; readonly blocks: readonly RamBlock[] }
  | { readonly kind: "pages"; readonly epoch: number; readonly batch: PageBatch }
  /**
   * The checkpoint is in staging and the next epoch is cut; unless held, the VM runs. Epoch 0 is the first
   * pass: the VM is paused.
   */
  | {
      readonly kind: "captured";
      readonly epoch: number;
      readonly device: Uint8Array;
      readonly pages: number;
    }
  /** QEMU wants a checkpoint; the VM runs. */
  | { readonly kind: "requested" }
  /** Capture is over. `error` is missing when it was asked for or QEMU closed the stream while the VM ran. */
  | { readonly kind: "ended"; readonly error?: string };
