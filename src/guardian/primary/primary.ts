/**
 * The primary guardian: has a VM that runs, feeds what happens to it to `core/primary`, and carries the
 * effects out. It owns QEMU: when one of the two dies, so does the other.
 */

import { PAGE_BYTES } from "../../codec/replication.ts";
import type { PacerSettings } from "../../core/pacer.ts";
import { startPrimary, stepPrimary } from "../../core/primary.ts";
import type { PrimaryEffect, PrimaryEvent, PrimaryState } from "../../core/primary-protocol.ts";
import { InvariantBroken } from "../../core/transition.ts";
import type { Generation } from "../../core/words.ts";
import { livePreflight } from "../../hypervisor/qemu/live-preflight.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import type { Listener } from "../../link/listen.ts";
import { reached } from "../../os/epoch-points.ts";
import type { PrimaryConfig } from "../config/config.ts";
import type { Context, RoleEnd, TakenOver } from "../context.ts";
import { checkedOrders } from "../control/orders.ts";
import type { PrimaryStatus } from "../control/status.ts";
import { DirtyRecords } from "../disks/dirty-records.ts";
import { OwnedDisks } from "../disks/owned-disks.ts";
import { EventLoop } from "../event-loop.ts";
import { checkFindings, type HostEnvironment, machineOf } from "../host-environment.ts";
import { OrderlyEnd } from "../orderly-end.ts";
import { CheckpointWatch } from "../watch/checkpoint-watch.ts";
import { HangWatch } from "../watch/hang-watch.ts";
import { lateMs } from "../watch/stale-ack-guard.ts";
import { BootFiles } from "./boot-files.ts";
import { afterYou, lastGoodbye, putAway, tidyUp, whatNext } from "./end.ts";
import { PrimaryFailures } from "./failures.ts";
import type { GuestEnd } from "./guest-end.ts";
import { InputForwarding } from "./input-forwarding.ts";
import { KeepProtected } from "./keep-protected.ts";
import { killVm } from "./kill-vm.ts";
import { type DiskMessage, PrimaryLink } from "./link.ts";
import { newProtection, refuseWithoutPeer } from "./new-protection.ts";
import { PrimaryOrders } from "./orders.ts";
import type { Protection } from "./protection.ts";
import type { RunningVm } from "./running-vm.ts";
import { PrimaryStatistics } from "./statistics.ts";
import { primaryStatus } from "./status.ts";
import { sweepUp } from "./sweep-up.ts";
import { openTakeoverNotice } from "./takeover-notice.ts";
import { type WatchedVm, watchVm } from "./watched-vm.ts";

/** How a VM comes to be this host's. */
export interface Beginning {
  readonly generation: Generation;
  readonly environment: HostEnvironment;
  readonly qemu: QemuProcess;
  readonly takenOver?: TakenOver;
  /** The VM is to be protected, without an order. */
  readonly wanted: boolean;
}

export class PrimaryGuardian {
  /** Settles when the VM is gone from here. */
  readonly done: Promise<RoleEnd>;
  private readonly finish: (end: RoleEnd) => void;
  private readonly context: Context<PrimaryConfig>;
  private readonly environment: HostEnvironment;
  private readonly qemu: QemuProcess;
  private readonly takenOver: TakenOver | undefined;
  private readonly link: PrimaryLink;
  private readonly orders: PrimaryOrders;
  private readonly disks: OwnedDisks;
  private readonly records: DirtyRecords;
  private readonly keep: KeepProtected;
  private readonly settings: PacerSettings;
  private readonly statistics = new PrimaryStatistics();
  private readonly vm: RunningVm;
  private readonly guestEnd: GuestEnd;
  private readonly watched: WatchedVm;
  private readonly input: InputForwarding;
  private readonly hangs: HangWatch;
  private readonly checkpoints: CheckpointWatch;
  readonly ending: OrderlyEnd;
  private readonly bootFiles: BootFiles;
  private listener: Listener | undefined;
  private readonly loop: EventLoop<PrimaryState, PrimaryEvent, PrimaryEffect>;
  private readonly failures: PrimaryFailures;
  private published: PrimaryState["phase"] = "unprotected";
  private protection: Protection | undefined;
  private wakeTimer: NodeJS.Timeout | undefined;
  private readonly tickTimer: NodeJS.Timeout;

  constructor(
    context: Context<PrimaryConfig>,
    { generation, environment, qemu, takenOver, wanted }: Beginning,
  ) {
    const { promise, resolve } = Promise.withResolvers<RoleEnd>();
    const { config } = context;
    this.done = promise;
    this.finish = resolve;
    this.context = context;
    this.environment = environment;
    this.qemu = qemu;
    this.takenOver = takenOver;
    this.loop = new EventLoop(startPrimary(generation), {
      step: (state, event) => stepPrimary(state, event, performance.now(), this.settings),
      carryOut: (effect, heardMs) => this.carryOut(effect, heardMs),
      stepped: () => this.stepped(),
      failed: (what, error) => this.failures.failed(what, error),
    });
    this.failures = new PrimaryFailures({
      ...context,
      state: () => this.state,
      partFailed: (type, reason) => void this.partFailed(this.protection, type, reason),
      loseLink: (reason) => this.loseLink(reason),
      kill: this.kill,
    });
    this.disks = new OwnedDisks(context, environment);
    const numbers = this.disks.all.map(({ disk }) => disk);
    this.records = new DirtyRecords(qemu.qmp, numbers, takenOver);
    this.link = new PrimaryLink({
      context,
      machine: () => this.watched.changes.describe(() => machineOf(config, environment, qemu)),
      disks: this.disks.all,
      state: () => this.state,
      feed: (event) => this.feed(event),
      onDiskMessage: (message) => this.fromBackupDisks(message),
      onLost: () => this.protection?.abandon(),
    });
    this.orders = this.takeOrders();
    this.bootFiles = new BootFiles(context, config.vm);
    this.keep = new KeepProtected({
      settings: config.timing,
      wanted,
      log: context.log,
      control: context.control,
      protect: () => this.orders.begin(),
    });
    this.settings = {
      intervalMs: config.timing.intervalMs,
      maxInFlight: config.limits.maxInFlight,
      maxInFlightBytes: config.limits.stagingMiB * 2 ** 20,
    };
    this.checkpoints = new CheckpointWatch({
      settings: this.settings,
      log: context.log,
      control: context.control,
    });
    this.tickTimer = setInterval(() => {
      this.link.look();
      this.feed({ type: "tick" });
      this.keep.tick();
      this.checkpoints.look(this.state, performance.now(), this.vm.standstill !== undefined);
    }, 25);
    this.input = new InputForwarding(
      config.vm.nics.map(({ tap }) => tap),
      context.log,
    );
    const { disks, statistics } = this;
    const [state, protection] = [() => this.state, () => this.protection];
    const feed = (event: PrimaryEvent) => this.feed(event);
    this.watched = watchVm({ qemu, disks, context, statistics, state, protection, feed });
    ({ vm: this.vm, guestEnd: this.guestEnd } = this.watched);
    this.ending = new OrderlyEnd({
      ...{ feed, log: context.log, orders: this.orders, shutdownMs: config.timing.shutdownMs },
      qemu: { qmp: qemu.qmp, kill: this.kill },
      state: () => this.state,
      refuseToMove: () => this.disks.refuseToMove(),
      onBegin: () => this.keep.rest(),
    });
    this.hangs = new HangWatch({
      qemu,
      hungMs: config.timing.hungMs,
      who: "the VM's QEMU",
      log: context.log,
      control: context.control,
      onHung: (reason) => this.feed({ type: "hypervisor-hung", reason }),
    });
    void qemu.exited.then((how) => this.vmGone(how));
  }

  /** Takes orders from here on. */
  async open(): Promise<void> {
    const { orders, context, qemu, statistics, takenOver } = this;
    if (takenOver !== undefined) {
      const now = { wanted: () => this.keep.wanted, here: () => !this.ending.gone };
      void this.disks.settle(qemu.qmp, takenOver.generation, now);
      this.bootFiles.look();
      this.listener = await openTakeoverNotice(context, takenOver.epoch, () => this.state);
    }
    await context.control.take(
      checkedOrders({
        ...orders.table(() => this.disks.refuseToMove(), this.vm),
        status: () => this.status(),
        samples: ({ from }) => statistics.samples(from),
        "reset-statistics": () => statistics.reset(this.protection?.bytesOnWire),
      }),
    );
    this.publish();
  }

  private status(): PrimaryStatus {
    const { environment, keep, link, context, protection, qemu, state, statistics, takenOver, vm } = this;
    return primaryStatus({
      environment,
      keep,
      link,
      context,
      protection,
      qemu,
      state,
      statistics,
      takenOver,
      vm,
    });
  }

  private takeOrders(): PrimaryOrders {
    const guardian = this;
    return new PrimaryOrders({
      get state() {
        return guardian.state;
      },
      feed: (event) => this.feed(event),
      preflight: async () => {
        refuseWithoutPeer(this.context.config);
        this.bootFiles.refuseMissing();
        await this.disks.settled();
        await sweepUp(this.qemu, this.context);
        const cards = this.context.config.vm.nics.length;
        checkFindings(await livePreflight(this.qemu.qmp, this.qemu.pid, cards), this.context.log);
      },
      kill: this.kill,
      wantNoMore: () => this.wantNoMore(),
      get triesByItself() {
        return guardian.keep.isTrying;
      },
    });
  }

  /** Somebody has said stop. While there is a protection, its end is noted, and this with it. */
  private wantNoMore(): void {
    this.keep.stop();
    if (this.state.phase === "unprotected") void this.disks.noteSoon(this.state.generation, false);
  }

  // Events

  private async vmGone(how: string): Promise<void> {
    const guestShutDown = this.vm.ended !== undefined;
    await putAway(this.disks, this.state, guestShutDown, this.context.log, this.link);
    if (guestShutDown) {
      // A QEMU that was not to stay for it: there is nothing any more that a checkpoint could come from.
      if (this.state.phase === "protected") this.feed({ type: "capture-failed", reason: this.vm.ended! });
      await lastGoodbye(() => this.state.phase);
    } else if (this.state.phase !== "superseded") {
      this.context.log[this.ending.asked ? "info" : "error"](`the VM is gone: ${how}`);
    }
    this.ending.over();
    clearInterval(this.tickTimer);
    clearTimeout(this.wakeTimer);
    this.hangs.close();
    this.listener?.close();
    this.link.close();
    const { disks, ending, link, context, protection, state, takenOver } = this;
    await afterYou(state, context.config.timing);
    await tidyUp(context.log, [() => protection?.dispose(), () => takenOver?.cleanUp()]);
    const last = { asked: ending.asked, guestShutDown };
    this.finish(await whatNext({ ...last, disks, context, session: link.session, state }));
  }

  private readonly kill = () => killVm(this.qemu, this.link, this.context.log);

  readonly uncaught = (error: Error) => this.failures.failed({ duty: "uncaught" }, error);

  private get state(): PrimaryState {
    return this.loop.state;
  }

  private feed(event: PrimaryEvent): void {
    this.loop.feed(event);
  }

  private stepped(): void {
    if (this.published !== this.state.phase) this.publish();
    if (!handsOver(this.state)) this.input.stop();
    this.keep.stepped(this.state);
    this.orders.stepped();
    this.guestEnd.stepped();
  }

  private loseLink(reason: string): void {
    this.link.close();
    this.protection?.abandon();
    this.feed({ type: "link-lost", reason });
  }

  private captured(epoch: number, pages: number): void {
    if (epoch === 0) {
      this.feed({ type: "first-pass-done" });
      return;
    }
    this.statistics.captured(pages);
    this.feed({ type: "captured", epoch, bytes: pages * PAGE_BYTES });
  }

  /**
   * Capture, output hold or a disk's mirror has failed. If that is because QEMU died, the backup must take
   * over, so it must not be told goodbye: only a QEMU that still answers makes this an end of protection (I5)
   * rather than of the VM (I4).
   * @param protection of which it was a part: if that has ended meanwhile, the next one is not to suffer
   */
  private async partFailed(
    protection: Protection | undefined,
    type: "capture-failed" | "output-failed" | "disk-failed",
    reason: string,
  ): Promise<void> {
    // If it does not, vmGone follows.
    if ((await this.vm.answers()) && protection === this.protection) this.feed({ type, reason });
  }

  private fromBackupDisks(message: DiskMessage): void {
    const { shipping } = this.protection?.disks ?? {};
    if (message.type === "disk-applied") shipping?.applied(message.totalBytes);
    else if (message.type === "hashes") shipping?.answered(message);
    else this.records.durable(this.link.session, message.epoch);
  }

  // Effects

  /** @param heardMs when what has led to it was heard, by CLOCK_BOOTTIME */
  private carryOut(effect: PrimaryEffect, heardMs: number): void | Promise<void> {
    switch (effect.type) {
      case "connect":
        return this.link.connect();
      case "start-capture":
        this.startCapture();
        return;
      case "begin-epochs":
        return this.beginEpochs(this.protection!);
      case "capture":
        if (handsOver(this.state)) this.input.watch();
        return this.watched.takeCheckpoint(effect.hold);
      case "proceed":
        this.protection!.proceed();
        return;
      case "release":
        this.assertAcked(effect.upTo);
        reached("before-release");
        this.release(effect.upTo, heardMs + lateMs(this.context.config.timing.detectionMs));
        reached("after-release");
        this.protection!.disks.acked(effect.upTo);
        this.records.renew(
          this.link.session,
          () => this.protection?.runningEpoch ?? Number.POSITIVE_INFINITY,
        );
        return;
      case "release-all":
        if (this.vm.ended === undefined) this.protection?.releaseAll();
        return;
      case "end-capture":
        return this.endCapture();
      case "send-goodbye":
        return this.protection?.goodbye();
      case "send-handover":
        this.protection?.handover(effect.epoch);
        this.input.forward((frame) => this.link.sendInput(frame));
        return;
      case "close-link":
        this.link.close();
        this.protection?.abandon();
        return;
      case "ask-arbiter":
        return this.askArbiter(effect.generation);
      case "kill-vm":
        this.context.log.error(`${effect.reason}; the VM is killed here`);
        this.kill();
        return;
      case "remind-hypervisor":
        return this.protection!.remind();
      case "wake":
        clearTimeout(this.wakeTimer);
        this.wakeTimer = setTimeout(
          () => this.feed({ type: "tick" }),
          Math.max(0, effect.atMs - performance.now()),
        );
        return;
      case "report":
        this.report(effect.level, effect.text);
        return;
    }
  }

  private release(upTo: number, untilMs: number): void {
    if (this.state.phase === "handing-over") this.protection!.letGo(upTo, untilMs);
    else this.protection!.release(upTo, untilMs);
  }

  /** I1, once more, where it is carried out. */
  private assertAcked(upTo: number): void {
    const acked = "acked" in this.state ? this.state.acked : -1;
    if (upTo > acked) throw new InvariantBroken("I1", `release of ${upTo} with ${acked} acknowledged`);
  }

  private startCapture(): void {
    const { disks, link, context, qemu, records, vm } = this;
    const protection = newProtection(
      { disks, link, context, qemu, records, vm },
      {
        onSent: (epoch) => this.feed({ type: "sent", epoch }),
        onCaptured: (epoch, pages) => this.captured(epoch, pages),
        // QEMU aborts when a checkpoint stops a VM that is not running, so a request waits for that.
        onRequested: () => this.vm.whenRunning(() => this.feed({ type: "requested" })),
        onEnded: (reason) => {
          // In "ending" it is we who end it.
          if (this.state.phase !== "ending") void this.partFailed(protection, "capture-failed", reason);
        },
        onFailed: (reason) => void this.partFailed(protection, "output-failed", reason),
        onDiskFailed: (reason) => void this.partFailed(protection, "disk-failed", reason),
        report: (level, text) => this.report(level, text),
      },
    );
    this.vm.whenRunning(undefined);
    this.protection = protection;
    this.statistics.reset(0);
    // Should this host fail, it knows that a backup may have the VM, and which protection the logs of its
    // disks are of.
    this.disks
      .note(this.state.generation, this.keep.wanted, this.link.session)
      .then(() => protection.start())
      .catch((error: Error) => this.partFailed(protection, "capture-failed", error.message));
  }

  private async beginEpochs(protection: Protection): Promise<void> {
    try {
      await protection.beginEpochs();
    } catch (error) {
      await this.partFailed(protection, "capture-failed", (error as Error).message);
    }
  }

  /**
   * Until it is out of QEMU the VM is not called unprotected, and no other protection begins: what was left
   * in would stand in its way.
   */
  private async endCapture(): Promise<void> {
    const { protection, vm } = this;
    vm.whenRunning(undefined);
    if (protection !== undefined && this.guestEnd.takes(protection)) return;
    await protection?.tearDown();
    if (protection !== undefined) this.statistics.ended(protection.bytesOnWire);
    this.protection = undefined;
    await vm.look();
    // Another host owns the VM: nothing is noted in its generation.
    if (this.state.phase !== "ending") return;
    await this.disks.noteSoon(this.state.generation, this.keep.wanted);
    this.feed({ type: "capture-ended" });
  }

  private async askArbiter(generation: number): Promise<void> {
    this.feed({ type: "verdict", ...(await this.context.witness.ask(generation)) });
  }

  private report(level: "info" | "warn" | "error", text: string): void {
    if (level !== "info") this.orders.warned(text);
    if (this.keep.isOldNews(level, text, this.state.phase)) return;
    this.context.log[level](text);
    this.context.control.publish({ kind: "report", level, text });
  }

  private publish(): void {
    const { phase, generation } = this.state;
    this.published = phase;
    this.context.control.publish({ kind: "phase", role: "primary", phase, generation });
  }
}

/** The next checkpoint is the last one here, or was. */
function handsOver(state: PrimaryState): boolean {
  return state.phase === "handing-over" || (state.phase === "protected" && state.switchover);
}
