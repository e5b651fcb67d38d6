/**
 * The backup guardian: keeps a standby QEMU over the RAM image and the disk images, takes checkpoints in, and
 * lets the standby run when the primary is lost and the arbiter agrees. It feeds `core/backup` and carries
 * its effects out.
 */

import { join } from "node:path";
import {
  encodeAck,
  encodeDiskApplied,
  encodeDiskDurable,
  encodeGoodbyeOk,
  encodeTakeover,
  encodeUnable,
} from "../../codec/replication-encode.ts";
import {
  type BackupEffect,
  type BackupEvent,
  type BackupState,
  startBackup,
  stepBackup,
} from "../../core/backup.ts";
import type { Generation } from "../../core/words.ts";
import { ramBlockName } from "../../hypervisor/qemu/command-line.ts";
import { backupPreflight } from "../../hypervisor/qemu/preflight.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import { prepareStandby } from "../../hypervisor/qemu/standby.ts";
import { ramKiB } from "../../hypervisor/qemu/tcg-aids.ts";
import { at } from "../../link/link-error.ts";
import { BackupImages } from "../../memory/backup-images.ts";
import { memoryBounds } from "../../memory/memory-bounds.ts";
import { StandbyTaps } from "../../net/standby-taps.ts";
import { monotonicMs } from "../../os/monotonic.ts";
import type { BackupConfig } from "../config/config.ts";
import type { Context, RoleEnd } from "../context.ts";
import { checkedOrders } from "../control/orders.ts";
import { BackupDisks, followedDisks } from "../disks/backup-disks.ts";
import { mendImages } from "../disks/image-repair.ts";
import { EventLoop } from "../event-loop.ts";
import {
  checkFindings,
  type HostEnvironment,
  machineOf,
  prepareEnvironment,
  startQemu,
} from "../host-environment.ts";
import type { Attended } from "../host-signals.ts";
import { type HangWatch, watchStandby } from "../watch/hang-watch.ts";
import { CheckpointProof } from "./checkpoint-proof.ts";
import { BackupFailures, endingOf, isOnlyCopy, isSpare } from "./failures.ts";
import { HeldCheckpoints } from "./held-checkpoints.ts";
import { BackupLink } from "./link.ts";
import { clearAway } from "./standby-end.ts";
import { StandbyTakeover } from "./standby-takeover.ts";
import { type StartHereParts, startHere } from "./start-here.ts";
import { backupStatus } from "./status.ts";
import { TestFailover } from "./test-failover.ts";

/** A planned switchover waits so long for the arbiter, with the VM paused. */
const HANDOVER_PATIENCE_MS = 2_000;

interface Parts {
  readonly environment: HostEnvironment;
  readonly qemu: QemuProcess;
  readonly images: BackupImages;
  readonly taps: StandbyTaps;
}

export class BackupGuardian {
  /** Settles when the standby's process is gone, or has become the VM. */
  readonly done: Promise<RoleEnd>;
  private readonly finish: (end: RoleEnd) => void;
  private readonly context: Context<BackupConfig>;
  private readonly environment: HostEnvironment;
  private readonly qemu: QemuProcess;
  private readonly images: BackupImages;
  private readonly taps: StandbyTaps;
  private disks!: BackupDisks;
  private held!: HeldCheckpoints;
  private link!: BackupLink;
  private readonly loop: EventLoop<BackupState, BackupEvent, BackupEffect>;
  private readonly failures: BackupFailures;
  private published: BackupState["phase"] = "waiting";
  private takeover!: StandbyTakeover;
  private test!: TestFailover;
  private readonly hangs: HangWatch;
  /** For the host's signals. */
  readonly ending: Attended["ending"];
  /** The standby hung, and was ended. */
  private hung = false;
  private quitting = false;
  /** What this host is next, where that is decided already. */
  private next: RoleEnd | undefined;
  /** The VM runs here and this host is its primary: the standby is not ours to watch any more. */
  private handedOn = false;

  private constructor(
    context: Context<BackupConfig>,
    generation: Generation,
    { environment, qemu, images, taps }: Parts,
  ) {
    const { promise, resolve } = Promise.withResolvers<RoleEnd>();
    const { log } = context;
    this.done = promise;
    this.finish = resolve;
    this.context = context;
    this.loop = new EventLoop<BackupState, BackupEvent, BackupEffect>(startBackup(generation), {
      step: stepBackup,
      carryOut: (effect) => this.carryOut(effect),
      stepped: () => this.stepped(),
      failed: (what, error) => this.failures.failed(what, error),
    });
    this.failures = new BackupFailures({
      ...context,
      state: () => this.state,
      feed: (event) => this.feed(event),
      loseLink: (reason) => {
        this.link.close();
        this.primaryLost(reason);
      },
      beginAnew: () => this.end(this.next ?? { kind: "backup", generation: this.state.generation }),
    });
    this.environment = environment;
    this.qemu = qemu;
    this.images = images;
    this.taps = taps;
    this.hangs = watchStandby(context, qemu, (reason) => this.standbyHangs(reason));
    this.ending = endingOf(log, this.loop, () => this.end({ kind: "exit", status: 0 }));
    void this.qemu.exited.then((how) => this.standbyGone(how));
  }

  /** Preflight, images, standby, and an open door for the primary. Leaves nothing behind when it fails. */
  static async start(context: Context<BackupConfig>, generation: Generation): Promise<BackupGuardian> {
    const { config, log } = context;
    const { vm, limits, imageDirectory } = config;
    const environment = await prepareEnvironment(config, log);
    const path = join(imageDirectory, `${vm.name}.ram`);
    const room = {
      imageDirectory,
      imageFile: path,
      bounds: memoryBounds(vm, limits),
      images: environment.images,
    };
    checkFindings(await backupPreflight(vm, room), log);
    await mendImages(context);
    const ramBytes = ramKiB(vm.memoryMiB, environment.accelerator) * 1024;
    const images = await BackupImages.create(path, ramBlockName, ramBytes);
    const taps = new StandbyTaps(vm.nics, (text) => log.warn(text));
    let qemu: QemuProcess | undefined;
    try {
      qemu = await startQemu(config, environment, { role: "standby", ramFile: path });
      taps.belongTo(qemu.pid);
      await prepareStandby(qemu.qmp);
      const guardian = new BackupGuardian(context, generation, { environment, qemu, images, taps });
      await guardian.open();
      return guardian;
    } catch (error) {
      qemu?.kill();
      images.discard();
      throw error;
    }
  }

  private async open(): Promise<void> {
    const { config, control, log, record } = this.context;
    const { replication, vm, limits, runDirectory } = config;
    this.taps.park();
    const disks = followedDisks(vm, this.environment.images);
    const onFailed = (reason: string) => this.feed({ type: "commit-failed", reason });
    this.disks = await BackupDisks.open({
      qmp: this.qemu.qmp,
      runDirectory,
      disks,
      record,
      log: { folder: config.stateDirectory, vm: vm.name },
      onFailed,
      onDurable: (epoch) => this.link.send((ids) => encodeDiskDurable(ids, epoch)),
    });
    this.held = new HeldCheckpoints({
      images: this.images,
      disks: this.disks,
      hasDisks: disks.length > 0,
      flash: vm.disks.find(({ bus }) => bus === "pflash")?.image,
      bounds: memoryBounds(vm, limits),
      onWhole: (epoch) => this.feed({ type: "checkpoint-whole", epoch }),
      onCommitted: (epoch) => this.feed({ type: "committed", epoch }),
      onFailed,
      told: this.context,
      isOnlyCopy: () => isOnlyCopy(this.state),
      proof: new CheckpointProof({ config, environment: this.environment, ramFile: this.images.path, log }),
      onApplied: (totalBytes) => this.link.send((ids) => encodeDiskApplied(ids, totalBytes)),
    });
    const { disks: images, environment, held, qemu, taps } = this;
    const mayGiveUp = () => isSpare(this.state);
    this.takeover = new StandbyTakeover({
      context: this.context,
      disks: images,
      environment,
      held,
      mayGiveUp,
      qemu,
      taps,
    });
    this.test = new TestFailover({
      context: this.context,
      environment,
      held,
      disks: images,
      state: () => this.state,
    });
    await this.test.sweep();
    this.link = new BackupLink({
      context: this.context,
      // Hashes the boot files.
      machine: await machineOf(this.context.config, this.environment, this.qemu),
      disks: this.disks,
      intake: this.held.intake,
      state: () => this.state,
      feed: (event) => this.feed(event),
      tookOverAt: () => this.takeover.at,
      deaf: () => this.quitting,
      onHandover: () => {
        this.takeover.times = { detectedAtMs: monotonicMs() };
      },
      onInput: (frame) => this.takeover.input.keep(frame),
      onLost: (reason) => this.primaryLost(reason),
      onSuspicion: (suspected) => {
        if (suspected && this.state.phase === "armed") this.taps.open();
        if (!suspected && ["waiting", "filling", "armed"].includes(this.state.phase)) this.taps.park();
      },
    });
    await control.take(
      checkedOrders({
        status: () => {
          const { link, context, state, takeover } = this;
          return backupStatus({ environment, held, link, context, qemu, state, takeover });
        },
        "flush-disks": () => this.disks.flush(),
        "test-failover": (args) => this.test.order(args),
        "start-here": (args) => startHere(this.startParts(), args),
        quit: () => this.ending.now(),
      }),
    );
    await this.link.open();
    const addresses = replication.listen.map((address) => at(address)).join(" and ");
    log.info(`standby for VM ${vm.name} is ready (QEMU ${this.qemu.qmp.version}); listening on ${addresses}`);
    this.publish();
  }

  // Orders

  private startParts(): StartHereParts {
    const { generation } = this.state;
    return {
      context: this.context,
      state: () => this.state,
      shutOut: () => {
        this.quitting = true;
        this.link.shut();
        this.link.close();
      },
      start: (won) => this.end({ kind: "start", generation: won }),
      anew: () => this.end({ kind: "backup", generation }),
    };
  }

  uncaught(error: Error): void {
    this.failures.failed({ duty: "uncaught" }, error);
  }

  private end(next: RoleEnd): void {
    this.next = next;
    this.quit();
  }

  private quit(): void {
    this.quitting = true;
    this.test?.drop("the guardian ends");
    this.link.close();
    this.qemu.kill();
  }

  // Events

  /**
   * Its process may not end for long, should it wait for storage. Whoever must know that it does not run the
   * VM hears that now.
   */
  private standbyHangs(reason: string): void {
    if (this.quitting || !isSpare(this.state)) return;
    this.hung = true;
    this.qemu.kill();
    if (this.state.phase === "arbitrating" || this.state.phase === "recovering")
      this.feed({ type: "standby-failed", reason });
    else this.quit();
  }

  private async standbyGone(how: string): Promise<void> {
    this.hangs.close();
    if (this.handedOn) return;
    const asked = this.quitting || this.state.phase === "stood-down";
    if (!asked) this.context.log.error(`the standby is gone: ${how}`);
    // A primary that has paused the VM and waits for this host is to hear that it need not (I5).
    if (!asked && (this.state.phase === "arbitrating" || this.state.phase === "recovering"))
      this.feed({ type: "standby-failed", reason: how });
    this.quitting = true;
    const { disks, held, images, link, taps, test } = this;
    await clearAway({ disks, held, images, link, taps, test }, this.context.log);
    const { generation, phase } = this.state;
    if (this.next !== undefined) this.finish(this.next);
    else if (phase === "stood-down" || this.hung) this.finish({ kind: "backup", generation });
    else this.finish({ kind: "exit", status: asked ? 0 : 1 });
  }

  private primaryLost(reason: string): void {
    if (this.quitting) return;
    this.takeover.times ??= { detectedAtMs: monotonicMs() };
    this.feed({ type: "primary-lost", reason });
    if (this.state.phase === "waiting") this.takeover.times = undefined;
  }

  private get state(): BackupState {
    return this.loop.state;
  }

  private feed(event: BackupEvent): void {
    this.loop.feed(event);
  }

  /** After every event; what it does for a state it does once. */
  private stepped(): void {
    const { state } = this;
    // Protection comes first, and what follows has no time to lose.
    if (state.phase !== "armed") this.test?.drop(`the backup is ${state.phase}`);
    if (this.published !== state.phase) this.publish();
    if (state.phase === "arbitrating" && state.planned && state.committed === state.acked)
      void this.takeover.prepare(state.acked, state);
    if (state.phase === "running") this.becomePrimary();
    // The VM is the other host's, or this standby is spent: another one takes its place.
    if (state.phase === "stood-down") void this.link.refusalHeard().then(() => this.quit());
  }

  /** The VM is this host's now; what is left of the backup's role is taken down, but for the VM itself. */
  private becomePrimary(): void {
    if (this.handedOn) return;
    this.handedOn = true;
    this.hangs.close();
    this.link.shut();
    this.finish({
      kind: "primary",
      takenOver: this.takeover.handOn(this.state.generation, this.link.session),
    });
  }

  // Effects

  private carryOut(effect: BackupEffect): void | Promise<void> {
    switch (effect.type) {
      case "ack":
        this.held.assertWhole(effect.epoch);
        this.link.send((ids) => encodeAck(ids, effect.epoch));
        return;
      case "commit":
        this.held.commit();
        return;
      case "commit-again":
        this.held.commitAgain(effect.reason);
        return;
      case "drop-incomplete":
        this.held.dropIncomplete();
        return;
      case "forget":
        this.held.forget();
        this.takeover.input.take();
        return;
      case "goodbye-ok":
        this.link.send(encodeGoodbyeOk);
        return;
      case "unable":
        this.link.sayLast((ids) => encodeUnable(ids, effect.reason), effect.reason);
        return;
      case "refuse-handover":
        this.takeover.input.take();
        this.link.refuseHandover(effect.reason, effect.stoodDown);
        return;
      case "close-link":
        this.link.close();
        return;
      case "ask-arbiter":
        this.taps.open();
        if (this.state.phase === "arbitrating" && this.state.planned)
          setTimeout(() => this.feed({ type: "handover-expired" }), HANDOVER_PATIENCE_MS);
        return this.askArbiter(effect.generation);
      case "takeover":
        this.takeover.at = effect.epoch;
        this.link.sayLast((ids) => encodeTakeover(ids, effect.epoch), "this host has taken over");
        return;
      case "run-standby":
        return this.runStandby(effect.epoch);
      case "report":
        this.context.log[effect.level](effect.text);
        this.context.control.publish({ kind: "report", level: effect.level, text: effect.text });
        return;
    }
  }

  private async askArbiter(generation: number): Promise<void> {
    const verdict = await this.context.witness.ask(generation);
    if (this.takeover.times !== undefined) this.takeover.times.grantedAtMs = monotonicMs();
    this.feed({ type: "verdict", ...verdict });
  }

  private async runStandby(epoch: number): Promise<void> {
    try {
      await this.takeover.run(epoch, this.state);
      this.feed({ type: "standby-runs" });
    } catch (error) {
      // Whoever hears of the failure may let the old copy run: this one must not come up late.
      this.qemu.kill();
      this.feed({ type: "standby-failed", reason: (error as Error).message });
    }
  }

  private publish(): void {
    const { phase, generation } = this.state;
    this.published = phase;
    this.context.control.publish({ kind: "phase", role: "backup", phase, generation });
  }
}
