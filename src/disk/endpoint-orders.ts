/** What the guardian's main thread and the disk thread tell each other. */
import type { SharedRing } from "./write-ring.ts";

export interface EndpointDisk {
  /** Its number in `vm.disks`. */
  readonly disk: number;
  readonly bytes: number;
  /** Our end of the socket pair whose other end QEMU has. The thread closes it. */
  readonly fd: number;
}

export interface EndpointWorkerData {
  readonly disks: readonly EndpointDisk[];
  readonly ring: SharedRing;
  /** An `EpochCell`. */
  readonly epoch: SharedArrayBuffer;
}

export type EndpointOrder =
  /** Keep a write-intent log at `path`, of what QEMU announces over `fd`; then `logging`. */
  | ({ readonly kind: "log"; readonly path: string; readonly session: string } & EndpointDisk)
  /** The log at `path` will hear no more: its connection may end. */
  | { readonly kind: "retire"; readonly path: string }
  /** QEMU is done with all of it, or will not be heard any more. */
  | { readonly kind: "stop" };

export type EndpointReport =
  | { readonly kind: "ready" }
  /** There is something in the ring, and the reader asked to be told. */
  | { readonly kind: "written" }
  | { readonly kind: "logging"; readonly path: string }
  /** The log names so much of the disk now. */
  | { readonly kind: "grown"; readonly path: string; readonly markedBytes: number }
  /**
   * A disk's connection is over, or something else is wrong: from now on writes, or intents, may be missing.
   */
  | { readonly kind: "failed"; readonly error: string }
  | { readonly kind: "stopped" };
