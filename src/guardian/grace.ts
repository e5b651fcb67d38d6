/**
 * How long a silence of the other host is borne beyond the detection time, in ms. At the beginning of a
 * protection both hosts have more to do than later, and a silence may be no more than that; and what was said
 * before is heard after it, on a link with a long way.
 */
import type { BackupState } from "../core/backup.ts";
import type { PrimaryState } from "../core/primary-protocol.ts";

/** While nobody but the primary could run the VM, and nothing is held, haste gains nothing. */
const FIRST_PASS_MS = 5_000;
/**
 * The backup puts the first pass in place, which is all of the RAM. Output is held meanwhile: a client waits
 * so long if the backup dies right then.
 */
const FIRST_ACK_DETECTIONS = 3;

export function graceForBackup(state: PrimaryState, detectionMs: number): number {
  if (state.phase === "syncing") return FIRST_PASS_MS;
  return state.phase === "protected" && state.acked < 0 ? FIRST_ACK_DETECTIONS * detectionMs : 0;
}

export function graceForPrimary({ phase }: BackupState): number {
  return phase === "filling" ? FIRST_PASS_MS : 0;
}
