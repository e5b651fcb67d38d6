/**
 * A checkpoint is begun only of a VM that runs at this instant: QEMU aborts when one stops a VM whose disk
 * has failed, and lets one run that was paused.
 */
import type { PrimaryEvent } from "../../core/primary-protocol.ts";
import { reached } from "../../os/epoch-points.ts";
import type { Protection } from "./protection.ts";
import type { RunningVm } from "./running-vm.ts";

/** @param current the protection that is under way: it may have ended while QEMU was asked */
export async function takeCheckpoint(
  vm: RunningVm,
  hold: boolean,
  current: () => Protection | undefined,
  feed: (event: PrimaryEvent) => void,
): Promise<void> {
  const protection = current();
  const runs = await vm.mayBePaused().catch(() => undefined);
  // Without an answer, QEMU's end is heard of next.
  if (runs === undefined || protection === undefined || protection !== current()) return;
  if (runs) {
    reached("before-capture");
    protection.captureCheckpoint(hold);
    return;
  }
  feed({ type: "capture-put-off" });
  vm.whenRunning(() => feed({ type: "requested" }));
}
