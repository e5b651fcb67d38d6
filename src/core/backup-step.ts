/** What the steps of the backup are made of. */
import type { BackupEffect, BackupEvent, BackupState, Holding } from "./backup-protocol.ts";
import { IllegalTransition, InvariantBroken, type Step } from "./transition.ts";
import type { EpochId } from "./words.ts";

export type BackupStep = Step<BackupState, BackupEffect>;

export function stay(state: BackupState): BackupStep {
  return { state, effects: [] };
}

export function illegal(state: BackupState, event: BackupEvent): never {
  throw new IllegalTransition("backup", state.phase, event.type);
}

/**
 * Checkpoint `epoch` is in the images now. Gives it back if it follows the one before and was acknowledged
 * (I2).
 */
export function commitInOrder(state: Holding, epoch: EpochId): EpochId {
  if (epoch !== state.committed + 1 || epoch > state.acked)
    throw new InvariantBroken(
      "I2",
      `checkpoint ${epoch} was committed after ${state.committed}, with ${state.acked} acknowledged`,
    );
  return epoch;
}
