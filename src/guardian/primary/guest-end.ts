/**
 * A guest that ends of itself (powers off, panics, reboots where that is to end it) ends the VM, on both
 * hosts: nobody is to bring it back. QEMU is kept for it (`-action shutdown=pause`), so that what the guest
 * has sent last still gets out, and so that nothing ends while the backup may go on with the VM.
 */
import type { PrimaryEvent, PrimaryState } from "../../core/primary-protocol.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import type { OwnedDisks } from "../disks/owned-disks.ts";
import type { Log } from "../log.ts";
import type { Protection } from "./protection.ts";

/** QEMU has this long to close the images by itself. */
const QUIT_MS = 5_000;

export interface GuestEndOptions {
  readonly qemu: QemuProcess;
  readonly disks: Pick<OwnedDisks, "relaxed" | "sync">;
  readonly log: Log;
  readonly state: () => PrimaryState;
  readonly feed: (event: PrimaryEvent) => void;
}

export class GuestEnd {
  private readonly options: GuestEndOptions;
  /** How it has ended. */
  private how: string | undefined;
  private quitting = false;

  constructor(options: GuestEndOptions) {
    this.options = options;
  }

  /** The guest has ended. @param how a sentence without its full stop */
  begin(how: string): void {
    const { disks, feed, log, state } = this.options;
    this.how = how;
    const protects = !["unprotected", "superseded"].includes(state().phase);
    log.info(`${how}${protects ? "; the backup is told, so that it does not bring the VM back" : ""}`);
    const stop = () => feed({ type: "stop-asked", because: how });
    if (disks.relaxed.length === 0) stop();
    // What the guest was told to be on these is in memory, here and at the backup: it must be on a disk
    // before that one lets go of its copy.
    else
      void disks
        .sync()
        .catch((error: Error) =>
          log.error(`what the guest wrote last may not be on its disks: ${error.message}`),
        )
        .then(stop);
  }

  /** To be called after every step of core. */
  stepped(): void {
    if (this.how !== undefined && this.options.state().phase === "unprotected") this.quit();
  }

  /**
   * The protection of a guest that has ended is over. It is not taken out of QEMU, for COLO would let the VM
   * run once more; QEMU goes with it. Returns whether that is so.
   */
  takes(protection: Protection): boolean {
    if (this.how === undefined) return false;
    const { log, qemu } = this.options;
    protection
      .letOut()
      .catch((error: Error) => log.warn(`what the guest has sent last may be lost: ${error.message}`))
      .finally(() => qemu.kill());
    return true;
  }

  private quit(): void {
    if (this.quitting) return;
    this.quitting = true;
    const { qemu } = this.options;
    const timer = setTimeout(() => qemu.kill(), QUIT_MS);
    void qemu.exited.then(() => clearTimeout(timer));
    // Without an answer it is gone, or will be.
    qemu.qmp.execute("quit").catch(() => {});
  }
}
