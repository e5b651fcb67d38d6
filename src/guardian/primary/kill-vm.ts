/** A VM that must not run on here, and is not asked. */
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import type { Log } from "../log.ts";

const ENDS_WITHIN_MS = 5_000;

/**
 * Ends QEMU. The link is closed at once, so that the backup need not wait for the process: one that waits for
 * storage (state D) is gone only when its request has come back, and may never be. Its guest is not: a thread
 * that has SIGKILL to die of does not return to it (I3). What it has sent is held here, and no ack lets any
 * of it go any more.
 */
export function killVm(
  qemu: Pick<QemuProcess, "kill" | "exited" | "processState">,
  link: { close(): void },
  log: Pick<Log, "error">,
): void {
  qemu.kill();
  link.close();
  const timer = setTimeout(() => {
    const state = qemu.processState;
    if (state === undefined) return;
    const why = state === "D" ? "it waits for storage: look at this host's disks" : `its state is ${state}`;
    log.error(`QEMU was killed, and its process does not end: ${why}. This guardian ends when it does`);
  }, ENDS_WITHIN_MS);
  timer.unref();
  void qemu.exited.then(() => clearTimeout(timer));
}
