/** The VM goes on here: the standby is given images and state, runs, and is handed to this host's primary. */
import type { BackupState } from "../../core/backup.ts";
import { InvariantBroken } from "../../core/transition.ts";
import type { EpochId } from "../../core/words.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import { type Grace, loadStandby, runStandby } from "../../hypervisor/qemu/standby.ts";
import { KeptInput } from "../../net/guest-input.ts";
import type { StandbyTaps } from "../../net/standby-taps.ts";
import { monotonicMs } from "../../os/monotonic.ts";
import type { BackupConfig } from "../config/config.ts";
import type { Context, TakenOver } from "../context.ts";
import type { FailoverTimes } from "../control/status.ts";
import type { BackupDisks } from "../disks/backup-disks.ts";
import type { HostEnvironment } from "../host-environment.ts";
import type { HeldCheckpoints } from "./held-checkpoints.ts";
import { ImageClaims } from "./image-claims.ts";

export interface StandbyParts {
  readonly qemu: QemuProcess;
  readonly environment: HostEnvironment;
  readonly taps: StandbyTaps;
  readonly disks: BackupDisks;
  readonly held: HeldCheckpoints;
  readonly context: Context<BackupConfig>;
  /** Whether the VM can go on elsewhere. */
  readonly mayGiveUp: () => boolean;
}

export class StandbyTakeover {
  /** The checkpoint from which the VM went on here. */
  at: EpochId = 0;
  /** Only once the primary was lost, or has handed the VM over. */
  times: FailoverTimes | undefined;
  /** What arrived for the VM at the host that hands it over. */
  readonly input = new KeptInput();
  private readonly parts: StandbyParts;
  private prepared: Promise<void> | undefined;
  /** The standby runs since the primary has handed the VM over. */
  private planned = false;
  private readonly claims: ImageClaims;
  private readonly grace: Grace;

  constructor(parts: StandbyParts) {
    const { mayGiveUp, context, qemu } = parts;
    this.parts = parts;
    this.claims = new ImageClaims(
      context,
      context.config.vm.disks.map(({ image }) => image),
      qemu.pid,
    );
    this.grace = {
      mayGiveUp,
      warn: (text) => context.log.warn(text),
      refused: (reason) => void this.claims.refused(reason),
    };
  }

  /**
   * Everything that need not wait for the arbiter, once the images are at checkpoint `epoch`, the last one:
   * the standby has its state then, and does not run. In a planned switchover the VM is paused meanwhile, and
   * whatever becomes of it, this standby does not take another checkpoint in: it runs the VM, or it ends.
   */
  prepare(epoch: EpochId, state: BackupState): Promise<void> {
    if (!("committed" in state) || state.committed !== epoch)
      throw new InvariantBroken(
        "I2",
        `the standby would run checkpoint ${epoch}, which is not in the images`,
      );
    this.prepared ??= this.load();
    // Whoever needs it hears of the failure.
    this.prepared.catch(() => {});
    return this.prepared;
  }

  private async load(): Promise<void> {
    const { disks, held, qemu, taps } = this.parts;
    taps.open();
    await disks.release();
    if (this.times !== undefined) this.times.imagesFreeAtMs = monotonicMs();
    await loadStandby(qemu.qmp, held.composition(), this.grace);
    taps.loaded();
    if (this.times !== undefined) this.times.loadedAtMs = monotonicMs();
  }

  /**
   * Runs the standby from checkpoint `epoch`. Rejects with what QEMU said; it may come up late then, and must
   * be killed.
   */
  async run(epoch: EpochId, state: BackupState): Promise<void> {
    const { disks, qemu, taps } = this.parts;
    this.at = epoch;
    this.planned = state.phase === "recovering" && state.planned;
    disks.claim(state.generation);
    await this.prepare(epoch, state);
    await runStandby(qemu.qmp, this.grace);
    if (this.times !== undefined) this.times.runningAtMs = monotonicMs();
    taps.deliver(this.input.take());
    void this.claims.running();
  }

  /** What this host's primary is given. */
  handOn(generation: number, session: string | undefined): TakenOver {
    const { environment, held, qemu, taps } = this.parts;
    return {
      generation,
      qemu,
      environment,
      ramFile: held.images.path,
      session,
      epoch: this.at,
      planned: this.planned,
      failover: this.times,
      cleanUp: async () => {
        this.claims.close();
        held.images.discard();
        taps.restore();
      },
    };
  }
}
