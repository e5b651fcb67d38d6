/** The VM as its QEMU tells of it: whether it runs at this instant, how long its pauses are, and how it ended. */
import type { QemuProcess } from "../hypervisor/qemu/process.ts";
import type { PrimaryStatistics } from "./primary-statistics.ts";

export class RunningVm {
  /** The guest has ended of itself. */
  guestShutDown = false;
  private readonly qemu: QemuProcess;
  private runs = true;
  private waits: (() => void) | undefined;

  constructor(qemu: QemuProcess, statistics: PrimaryStatistics) {
    this.qemu = qemu;
    const { qmp } = qemu;
    qmp.on("STOP", (_data, us) => {
      this.runs = false;
      statistics.paused(us);
    });
    qmp.on("RESUME", (_data, us) => {
      this.runs = true;
      statistics.resumed(us);
      const { waits } = this;
      this.waits = undefined;
      waits?.();
    });
    qmp.on("SHUTDOWN", (data) => {
      this.guestShutDown = (data as { guest?: boolean }).guest === true;
    });
  }

  /** Does it at once if the VM runs, else when it does. The last wish counts; undefined: none. */
  whenRunning(wish: (() => void) | undefined): void {
    this.waits = this.runs ? undefined : wish;
    if (this.runs) wish?.();
  }

  /** Whether QEMU still answers: if it does not, the VM is gone, or soon will be. */
  async answers(): Promise<boolean> {
    return await this.qemu.qmp.execute("query-status").then(
      () => true,
      () => false,
    );
  }
}
