/** Catches the backup in the midst of a commit, where a part of a checkpoint's writes is in its images. */

import { otherHost } from "./configuration.ts";
import type { Lab } from "./lab.ts";

export interface StoppedCommit {
  /** Of the standby that was stopped: a signal ends it all the same. */
  readonly qemuPid: number;
  /** Of checkpoints that are acknowledged and not committed. */
  readonly waitingBytes: number;
}

/**
 * Stops the backup's QEMU, which writes the images, while it has at least `bytes` of acknowledged checkpoints
 * to put in. The VM must be writing. From then on nothing gets any further, so what is told is so still when
 * the host is killed.
 * @throws when there is no such instant within `withinMs`
 */
export async function stopInCommit(lab: Lab, bytes: number, withinMs: number): Promise<StoppedCommit> {
  const qemuPid = await lab.qemuPid(otherHost(lab.owner));
  const waiting = async () => (await lab.backup.control.backupStatus()).waitingBytes;
  for (const deadline = performance.now() + withinMs; performance.now() < deadline; ) {
    if ((await waiting()) < bytes) continue;
    process.kill(qemuPid, "SIGSTOP");
    // The answers that were given before count still.
    const waitingBytes = await waiting();
    if (waitingBytes >= bytes) return { qemuPid, waitingBytes };
    process.kill(qemuPid, "SIGCONT");
  }
  throw new Error(`the backup had never ${bytes} bytes to commit within ${withinMs} ms`);
}
