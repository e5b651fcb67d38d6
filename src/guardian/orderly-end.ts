/**
 * A primary that is asked to end, by SIGTERM for example, while its VM runs: the VM is given to the backup if
 * it is protected. If not, its power button is pressed, and the guest shuts down. All of it has a time limit.
 */
import type { PrimaryEvent, PrimaryState } from "../core/primary-protocol.ts";
import type { QemuProcess } from "../hypervisor/qemu/process.ts";
import type { Log } from "./log.ts";
import type { PrimaryOrders } from "./primary/orders.ts";

/** So long QEMU may take to end by itself, once it was told. */
const QUIT_MS = 5_000;

export interface OrderlyEndParts {
  readonly state: () => PrimaryState;
  readonly feed: (event: PrimaryEvent) => void;
  readonly orders: Pick<PrimaryOrders, "leaves" | "switchover">;
  /** Throws if the VM cannot be moved by plan. */
  readonly refuseToMove: () => void;
  readonly qemu: Pick<QemuProcess, "kill" | "qmp">;
  readonly log: Log;
  readonly shutdownMs: number;
  readonly onBegin: () => void;
}

export class OrderlyEnd {
  /** Somebody has asked. */
  asked = false;
  /** The VM is gone. */
  gone = false;
  private readonly parts: OrderlyEndParts;
  private limit: NodeJS.Timeout | undefined;

  constructor(parts: OrderlyEndParts) {
    this.parts = parts;
  }

  /** Does nothing if it has begun already. */
  begin(): void {
    if (this.asked || this.gone) return;
    this.asked = true;
    this.parts.onBegin();
    this.limit = setTimeout(() => this.tooLong(), this.parts.shutdownMs);
    this.run().catch((error: Error) =>
      this.parts.log.error(`ending in order: ${error.message}. A second signal ends the VM at once`),
    );
  }

  /**
   * At once: a protected VM goes on at the backup, as after a crash of this host; another one ends as if its
   * power had failed.
   */
  now(): void {
    this.asked = true;
    this.parts.qemu.kill();
  }

  /** The VM is gone. */
  over(): void {
    this.gone = true;
    clearTimeout(this.limit);
  }

  private async run(): Promise<void> {
    const { feed, log, orders, state } = this.parts;
    for (;;) {
      const { phase } = state();
      switch (phase) {
        case "superseded":
          return;
        case "unprotected":
          await this.pressPowerButton();
          return;
        case "protected":
          if (await this.give()) return;
          break;
        case "connecting":
        case "syncing":
          feed({ type: "stop-asked" });
          await orders.leaves(phase);
          break;
        default:
          log.info(`the VM is ${phase}; what follows waits for that`);
          await orders.leaves(phase);
      }
    }
  }

  /** True: the VM goes on elsewhere. */
  private async give(): Promise<boolean> {
    const { feed, log, orders, qemu, refuseToMove, state } = this.parts;
    const before = state();
    if (before.phase === "protected" && before.acked < 0) {
      feed({ type: "stop-asked" });
      await orders.leaves("protected");
      return false;
    }
    try {
      refuseToMove();
      log.info("the VM is given to the backup, since this host is asked to end");
      await orders.switchover();
      return true;
    } catch (error) {
      log.warn(`the VM cannot be given to the backup by plan: ${(error as Error).message}`);
      const now = state();
      if (now.phase !== "protected" || now.acked < 0) return false;
      log.warn("it goes on there from its last checkpoint, as after a crash of this host");
      qemu.kill();
      return true;
    }
  }

  private async pressPowerButton(): Promise<void> {
    const { log, qemu, shutdownMs } = this.parts;
    log.info(
      `the VM is unprotected: its power button is pressed; the guest has ${shutdownMs} ms to shut down`,
    );
    await qemu.qmp.execute("system_powerdown");
  }

  private tooLong(): void {
    const { log, qemu, shutdownMs, state } = this.parts;
    log.warn(`the VM has not ended within ${shutdownMs} ms (timing.shutdownMs); it is ended now`);
    if (state().phase !== "unprotected") {
      qemu.kill();
      return;
    }
    // QEMU writes what its disks' formats keep in memory.
    qemu.qmp.execute("quit").catch(() => qemu.kill());
    this.limit = setTimeout(() => qemu.kill(), QUIT_MS);
  }
}
