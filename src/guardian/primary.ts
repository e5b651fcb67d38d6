/**
 * The primary guardian: starts the VM, feeds what happens to it to `core/primary`, and carries the effects out.
 * It owns QEMU: when one of the two dies, so does the other.
 */
import { hostname } from "node:os";
import { join } from "node:path";
import type { Arbiter } from "../core/arbiter.ts";
import type { PacerSettings } from "../core/pacer.ts";
import { startPrimary, stepPrimary } from "../core/primary.ts";
import type { PrimaryEffect, PrimaryEvent, PrimaryState } from "../core/primary-protocol.ts";
import { InvariantBroken } from "../core/transition.ts";
import type { CaptureReport } from "../hypervisor/qemu/capture-orders.ts";
import { ramBlockName } from "../hypervisor/qemu/command-line.ts";
import { livePreflight } from "../hypervisor/qemu/live-preflight.ts";
import type { QemuProcess } from "../hypervisor/qemu/process.ts";
import type { PrimaryConfig } from "./config.ts";
import { ControlSocket } from "./control.ts";
import type { Log } from "./log.ts";
import { PrimaryLink } from "./primary-link.ts";
import { PrimaryOrders } from "./primary-orders.ts";
import { PrimaryStatistics } from "./primary-statistics.ts";
import { Protection } from "./protection.ts";
import { Shipping } from "./shipping.ts";
import { Stalls } from "./stalls.ts";
import { type Ground, heed, machineOf, prepareGround, startQemu } from "./vm-process.ts";

const MIB = 1 << 20;
/** The backup has this long to let us go when the guest has shut itself down. */
const LAST_GOODBYE_MS = 2_000;

export class PrimaryGuardian {
  /** Settles when the VM is gone, with the exit status of the guardian. */
  readonly done: Promise<number>;
  private readonly finish: (status: number) => void;
  private readonly stalls = new Stalls();
  private readonly config: PrimaryConfig;
  private readonly log: Log;
  private readonly arbiter: Arbiter;
  private readonly ground: Ground;
  private readonly qemu: QemuProcess;
  private readonly link: PrimaryLink;
  private readonly orders: PrimaryOrders;
  private readonly settings: PacerSettings;
  private readonly statistics: PrimaryStatistics;
  private control: ControlSocket | undefined;
  private state: PrimaryState = startPrimary(1);
  private protection: Protection | undefined;
  private shipping: Shipping | undefined;
  private wakeTimer: NodeJS.Timeout | undefined;
  private readonly tickTimer: NodeJS.Timeout;
  private vmRuns = true;
  private requestWaits = false;
  private guestShutDown = false;

  private constructor(config: PrimaryConfig, log: Log, arbiter: Arbiter, ground: Ground, qemu: QemuProcess) {
    const { promise, resolve } = Promise.withResolvers<number>();
    this.done = promise;
    this.finish = resolve;
    this.config = config;
    this.log = log;
    this.arbiter = arbiter;
    this.ground = ground;
    this.qemu = qemu;
    this.link = new PrimaryLink({
      config,
      machine: machineOf(config, ground, qemu),
      generation: () => this.state.generation,
      feed: (event) => this.feed(event),
      onLost: () => this.shipping?.abandon(),
      urgent: () => this.state.phase !== "syncing",
    });
    this.orders = this.takeOrders();
    this.settings = {
      intervalMs: config.timing.intervalMs,
      maxInFlight: config.limits.maxInFlight,
    };
    this.statistics = new PrimaryStatistics();
    this.tickTimer = setInterval(() => this.feed({ type: "tick" }), 25);
    this.watchVm();
  }

  /** Preflight, then the VM. Fails with one sentence a problem and nothing started. */
  static async start(config: PrimaryConfig, log: Log, arbiter: Arbiter): Promise<PrimaryGuardian> {
    const ground = await prepareGround(config, log);
    const qemu = await startQemu(config, ground, { role: "primary", ramFile: config.lab.ramFile });
    const guardian = new PrimaryGuardian(config, log, arbiter, ground, qemu);
    const { orders, statistics } = guardian;
    guardian.control = await ControlSocket.open(join(config.runDirectory, "control.sock"), {
      status: () => guardian.status(),
      protect: () => orders.protect(),
      stop: () => orders.stop(),
      samples: () => statistics.samples(),
      "reset-statistics": () => statistics.reset(guardian.shipping?.bytesOnWire ?? 0),
      hold: ({ atEpoch }, caller) => orders.hold(atEpoch ?? 0, caller),
      proceed: () => orders.proceed(),
      quit: () => orders.quit(),
    });
    log.info(`VM ${config.vm.name} runs (QEMU ${qemu.qmp.version}, ${ground.accelerator}), unprotected`);
    return guardian;
  }

  private status(): Record<string, unknown> {
    const { protection, state } = this;
    return {
      role: "primary",
      vm: this.config.vm.name,
      accelerator: this.ground.accelerator,
      qemuVersion: this.qemu.qmp.version,
      qemuPid: this.qemu.pid,
      ramBlock: ramBlockName,
      ...state,
      heldBytes: protection?.heldBytes ?? 0,
      longestStallMs: this.stalls.longestMs,
      droppedFrames: protection?.droppedFrames ?? 0,
      stagingBytes: protection?.staging.takenBytes ?? 0,
      ...this.statistics.summary(this.shipping?.bytesOnWire ?? 0),
    };
  }

  private takeOrders(): PrimaryOrders {
    const guardian = this;
    return new PrimaryOrders({
      get state() {
        return guardian.state;
      },
      feed: (event) => this.feed(event),
      preflight: async () => heed(await livePreflight(this.qemu.qmp, this.qemu.pid), this.log),
      kill: () => this.qemu.kill(),
    });
  }

  // Events

  private watchVm(): void {
    const { qmp } = this.qemu;
    qmp.on("STOP", (_data, us) => {
      this.vmRuns = false;
      this.statistics.paused(us);
    });
    qmp.on("RESUME", (_data, us) => {
      this.vmRuns = true;
      this.statistics.resumed(us);
      if (this.requestWaits) this.requested();
    });
    qmp.on("SHUTDOWN", (data) => {
      this.guestShutDown = (data as { guest?: boolean }).guest === true;
    });
    void this.qemu.exited.then((how) => this.vmGone(how));
  }

  private async vmGone(how: string): Promise<void> {
    if (this.guestShutDown && this.state.phase === "protected") {
      // The guest has shut itself down: the backup must not bring it back.
      this.log.info("the guest has shut down; telling the backup");
      this.feed({ type: "capture-failed", reason: "the guest has shut down" });
      const over = () => ["unprotected", "superseded", "arbitrating"].includes(this.state.phase);
      for (const end = performance.now() + LAST_GOODBYE_MS; !over() && performance.now() < end; )
        await new Promise((again) => setTimeout(again, 10));
    } else if (this.state.phase !== "superseded") {
      this.log.error(`the VM is gone: ${how}`);
    }
    clearInterval(this.tickTimer);
    this.control?.close();
    this.finish(this.guestShutDown || this.state.phase === "superseded" ? 0 : 1);
  }

  private feed(event: PrimaryEvent): void {
    const before = this.state;
    let effects: readonly PrimaryEffect[];
    try {
      const step = stepPrimary(this.state, event, performance.now(), this.settings);
      this.state = step.state;
      effects = step.effects;
    } catch (error) {
      this.broken(error as Error);
      return;
    }
    for (const effect of effects) this.carryOut(effect);
    if (before.phase !== this.state.phase) this.publish();
    this.orders.stepped();
  }

  /**
   * We have a bug. While the backup can take over, the safe way out is what a crash of this host would do: nothing is released any more, and
   * the VM goes on there. Otherwise the event is dropped, for a VM that nobody else holds must not die of us (I5).
   */
  private broken(error: Error): void {
    this.log.error(`internal error, please report it: ${error.stack}`);
    if (["protected", "leaving", "arbitrating"].includes(this.state.phase)) this.qemu.kill();
  }

  private fromCapture(report: CaptureReport, protection: Protection): void {
    if (protection !== this.protection) return;
    switch (report.kind) {
      case "layout":
        this.shipping?.layout({ hypervisor: "qemu", header: report.header, blocks: report.blocks });
        return;
      case "pages":
        this.shipping!.pages(report.epoch, report.batch.chunk, report.batch);
        return;
      case "captured":
        this.shipping?.end(report.epoch, report.device);
        if (report.epoch === 0) {
          this.feed({ type: "first-pass-done" });
          return;
        }
        this.statistics.captured(report.pages);
        this.feed({ type: "captured", epoch: report.epoch });
        return;
      case "requested":
        this.requested();
        return;
      case "ended":
        // In "ending" it is we who end it.
        if (this.state.phase !== "ending")
          void this.partFailed("capture-failed", report.error ?? "QEMU closed the stream");
        return;
    }
  }

  /**
   * Capture or output hold has failed. If that is because QEMU died, the backup must take over, so it must not be told goodbye: only
   * a QEMU that still answers makes this an end of protection (I5) rather than of the VM (I4).
   */
  private async partFailed(type: "capture-failed" | "output-failed", reason: string): Promise<void> {
    try {
      await this.qemu.qmp.execute("query-status");
    } catch {
      return; // vmGone follows
    }
    this.feed({ type, reason });
  }

  /** QEMU aborts when a checkpoint stops a VM that is not running, so a request waits for that. */
  private requested(): void {
    this.requestWaits = !this.vmRuns;
    if (this.vmRuns) this.feed({ type: "requested" });
  }

  // Effects

  private carryOut(effect: PrimaryEffect): void {
    switch (effect.type) {
      case "connect":
        void this.link.connect();
        return;
      case "start-capture":
        this.startCapture();
        return;
      case "begin-epochs":
        this.protection!.beginEpochs().catch((error: Error) =>
          this.partFailed("capture-failed", error.message),
        );
        return;
      case "capture":
        this.protection!.captureCheckpoint(effect.hold);
        return;
      case "proceed":
        this.protection!.proceed();
        return;
      case "release":
        this.assertAcked(effect.upTo);
        this.protection!.release(effect.upTo);
        return;
      case "release-all":
        this.protection!.releaseAll();
        return;
      case "end-capture":
        void this.endCapture();
        return;
      case "send-goodbye":
        this.shipping?.goodbye();
        return;
      case "close-link":
        this.link.close();
        this.shipping?.abandon();
        return;
      case "ask-arbiter":
        void this.askArbiter(effect.generation);
        return;
      case "kill-vm":
        this.log.error(`${effect.reason}; the VM is killed here`);
        this.qemu.kill();
        return;
      case "remind-hypervisor":
        this.protection!.remind().catch((error: Error) => this.log.warn(error.message));
        return;
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

  /** I1, once more, where it is carried out. */
  private assertAcked(upTo: number): void {
    const acked = "acked" in this.state ? this.state.acked : -1;
    if (upTo > acked) throw new InvariantBroken("I1", `release of ${upTo} with ${acked} acknowledged`);
  }

  private startCapture(): void {
    const { config } = this;
    const protection = new Protection({
      qemu: this.qemu,
      netdevs: config.vm.nics.map((_, index) => `net${index}`),
      runDirectory: config.runDirectory,
      stagingBytes: config.limits.stagingMiB * MIB,
      heldBytes: config.limits.heldMiB * MIB,
      onReport: (report) => this.fromCapture(report, protection),
      onFailed: (reason) => void this.partFailed("output-failed", reason),
    });
    this.requestWaits = false;
    this.protection = protection;
    this.shipping = new Shipping(this.link.connection!, this.link.ids, protection.staging, (epoch) =>
      this.feed({ type: "sent", epoch }),
    );
    this.statistics.reset(0);
    protection.start().catch((error: Error) => this.partFailed("capture-failed", error.message));
  }

  private async endCapture(): Promise<void> {
    this.shipping?.abandon();
    try {
      await this.protection?.tearDown();
    } catch (error) {
      this.log.error(`taking protection out of QEMU: ${(error as Error).message}`);
    }
    this.protection = undefined;
    this.feed({ type: "capture-ended" });
  }

  private async askArbiter(generation: number): Promise<void> {
    const verdict = await this.arbiter.ask(this.config.vm.uuid, generation, hostname());
    this.feed({ type: "verdict", ...verdict });
  }

  private report(level: "info" | "warn" | "error", text: string): void {
    this.log[level](text);
    if (level !== "info") this.orders.warned(text);
    this.control?.publish({ kind: "report", level, text });
  }

  private publish(): void {
    this.control?.publish({ kind: "phase", phase: this.state.phase, generation: this.state.generation });
  }
}
