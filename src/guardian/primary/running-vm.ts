/**
 * The VM as its QEMU tells of it: whether it runs at this instant, why not if somebody else than Remus has
 * stopped it, how long its pauses are, and how it ended. docs/guests.md says what follows from each.
 */
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import { OrderRefused } from "../control/refusal.ts";
import type { PrimaryStatistics } from "./statistics.ts";

/** QEMU's own words (`query-status`) for a VM that stands still, and not because of Remus. */
const FOREIGN = [
  "paused",
  "io-error",
  "suspended",
  "watchdog",
  "guest-panicked",
  "internal-error",
  "shutdown",
  "debug",
] as const;

export type StandstillState = (typeof FOREIGN)[number];

const ENDED = "the guest has ended";
/** Why a VM that stands still so is not let run by an order. */
const NOT_RESUMED: Readonly<Partial<Record<StandstillState, string>>> = {
  suspended: "the guest sleeps (S3); wake it with `system_wakeup` on one of QEMU's monitors",
  "internal-error": "QEMU cannot run the VM on (internal-error); its log in the run directory may say why",
  "guest-panicked": ENDED,
  shutdown: ENDED,
};

/**
 * The VM is there and does not run: its operator, its disk, its watchdog or the guest itself has seen to
 * that.
 */
export interface Standstill {
  readonly state: StandstillState;
  /** ISO 8601. */
  readonly since: string;
}

export interface RunningVmOptions {
  readonly statistics: PrimaryStatistics;
  /** It stands still now, for another reason than before; undefined: it runs again. */
  readonly onStandstill: (standstill: Standstill | undefined) => void;
  /** The guest has ended, once. @param how a sentence without its full stop */
  readonly onEnded: (how: string) => void;
}

export class RunningVm {
  private readonly qemu: QemuProcess;
  private readonly options: RunningVmOptions;
  private runs = true;
  private waits: (() => void) | undefined;
  /** A pause of ours is due, or under way. */
  private cutting = false;
  /** Grows with every event that says whether it runs. */
  private changes = 0;
  private stands: Standstill | undefined;
  private end: string | undefined;

  constructor(qemu: QemuProcess, options: RunningVmOptions) {
    this.qemu = qemu;
    this.options = options;
    const { qmp } = qemu;
    const { statistics } = options;
    qmp.on("STOP", (_data, us) => {
      statistics.paused(us);
      this.stopped();
    });
    qmp.on("RESUME", (_data, us) => {
      // How long somebody else has kept it stopped is no pause of ours.
      if (this.stands === undefined) statistics.resumed(us);
      this.cutting = false;
      this.resumed();
    });
    // A guest that sleeps (S3) stands still without a STOP.
    qmp.on("SUSPEND", () => this.stopped());
    qmp.on("WAKEUP", () => this.resumed());
    // The stop that follows is not far: no checkpoint may come between.
    qmp.on("BLOCK_IO_ERROR", (data) => {
      if ((data as { action?: string }).action === "stop") this.runs = false;
    });
    this.listenForTheEnd();
  }

  /** Why it does not run; undefined while it does, and in Remus's own pauses. */
  get standstill(): Standstill | undefined {
    return this.stands;
  }

  /** How the guest has ended of itself, a sentence without its full stop. */
  get ended(): string | undefined {
    return this.end;
  }

  /** Does it at once if the VM runs, else when it does. The last wish counts; undefined: none. */
  whenRunning(wish: (() => void) | undefined): void {
    this.waits = this.runs ? undefined : wish;
    if (this.runs) wish?.();
  }

  /**
   * Whether it runs at this instant, asked of QEMU; if so, the next pause is taken for ours. A moment remains
   * in which it may stop before QEMU hears of our order: from outside that cannot be closed.
   */
  async mayBePaused(): Promise<boolean> {
    const { running } = await this.qemu.qmp.execute<{ running: boolean }>("query-status");
    // What QEMU has announced before its answer counts, too.
    if (!running || !this.runs || this.end !== undefined) {
      // Whoever waits until it runs must not be told at once that it does, and ask again, without end.
      if (!running) {
        this.runs = false;
        this.look().catch(() => {});
      }
      return false;
    }
    this.cutting = true;
    return true;
  }

  /** The next pause is ours. */
  pausing(): void {
    this.cutting = true;
  }

  /**
   * The order `resume`: has a VM run on that stands still.
   * @throws OrderRefused where it runs, has ended, or where letting it run would not help or do harm
   */
  async resume(): Promise<void> {
    if (this.stands === undefined) await this.look();
    const state = this.stands?.state;
    const no = state === undefined ? "the VM does not stand still" : NOT_RESUMED[state];
    if (no !== undefined) throw new OrderRefused("wrong-state", no);
    await this.qemu.qmp.execute("cont");
  }

  /** Whether QEMU still answers: if it does not, the VM is gone, or soon will be. */
  async answers(): Promise<boolean> {
    return await this.qemu.qmp.execute("query-status").then(
      () => true,
      () => false,
    );
  }

  /** Finds out how things stand: after a protection, whose pauses may have hidden others. */
  async look(): Promise<void> {
    let asked: number;
    let status: string | undefined;
    do {
      asked = this.changes;
      ({ status } = await this.qemu.qmp.execute<{ status?: string }>("query-status"));
    } while (asked !== this.changes);
    this.cutting = false;
    this.judge(status);
  }

  private stopped(): void {
    this.changes++;
    this.runs = false;
    // In a pause of ours QEMU has other things to do than to answer.
    if (!this.cutting) this.look().catch(() => {});
  }

  private resumed(): void {
    this.changes++;
    // The end may come inside a pause of ours, which QEMU then ends: the guest is no more for that.
    if (this.end !== undefined) return;
    this.runs = true;
    this.stand(undefined);
    const { waits } = this;
    this.waits = undefined;
    waits?.();
  }

  private judge(status: string | undefined): void {
    const state = FOREIGN.find((one) => one === status);
    if (state === "shutdown") this.endedBy("the VM has shut down");
    if (state !== undefined) this.runs = false;
    else if (status === "running" && !this.runs) this.resumed();
    this.stand(state);
  }

  private stand(state: StandstillState | undefined): void {
    if (state === this.stands?.state) return;
    this.stands = state === undefined ? undefined : { state, since: new Date().toISOString() };
    this.options.onStandstill(this.stands);
  }

  private listenForTheEnd(): void {
    const { qmp } = this.qemu;
    qmp.on("SHUTDOWN", (data) => {
      const { guest, reason } = data as { guest?: boolean; reason?: string };
      if (guest !== true) return;
      this.endedBy(
        reason === "guest-reset"
          ? "the guest has rebooted, which is to end it (reboot=shutdown)"
          : "the guest has shut down",
      );
    });
    qmp.on("GUEST_PANICKED", (data) => {
      const { action } = data as { action?: string };
      if (action === "pause" || action === "poweroff") this.endedBy("the guest has panicked");
    });
    // QEMU is gone the moment after, without a SHUTDOWN.
    qmp.on("WATCHDOG", (data) => {
      if ((data as { action?: string }).action === "poweroff")
        this.endedBy("the guest's watchdog has ended the VM");
    });
  }

  private endedBy(how: string): void {
    if (this.end !== undefined) return;
    this.end = how;
    this.runs = false;
    this.options.onEnded(how);
  }
}
