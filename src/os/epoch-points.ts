/**
 * Named points of the primary's epoch cycle, in the threads that pass them. A test build of the guardian
 * subscribes to the channel and may stand still in it, so that a test can strike exactly there
 * (bench/torture/). Nobody else does, and then a point costs nothing.
 */
import { channel } from "node:diagnostics_channel";

export const epochPoints = [
  /** The epoch may end; QEMU has not been told yet, and the VM runs. */
  "before-capture",
  /** All of the checkpoint is in staging; the next epoch is not cut yet, and the VM is paused. */
  "after-capture",
  /** The next epoch is cut; QEMU has not been told yet, and the VM is paused. */
  "before-resume",
  /** QEMU has been told, and the VM runs; the checkpoint's end has not been handed to the link. */
  "after-resume",
  /** The checkpoint is acknowledged; the thread that holds output has not been told. */
  "before-release",
  /** It has been told. */
  "after-release",
] as const;

export type EpochPoint = (typeof epochPoints)[number];

export const epochPointChannel = "remus.epoch-point";

const points = channel(epochPointChannel);

export function reached(point: EpochPoint): void {
  if (points.hasSubscribers) points.publish(point);
}
