/**
 * One protection of a running VM, from its first filter to its last: the parts at the primary that take part
 * in a checkpoint, what goes from one to the next, and the order in which they are set up and taken down. A
 * protection that starts again is a new one.
 */
import type { FrameIds } from "../../codec/replication-header.ts";
import type { EpochId } from "../../core/words.ts";
import { QemuCapture } from "../../hypervisor/qemu/capture.ts";
import type { CaptureReport } from "../../hypervisor/qemu/capture-orders.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import { sweep } from "../../hypervisor/qemu/sweep.ts";
import type { Session } from "../../link/session.ts";
import { EpochCell } from "../../memory/epoch-cell.ts";
import { Staging } from "../../memory/staging.ts";
import { FilterChain } from "../../net/filter-chain.ts";
import { leaveRemovedDirectory } from "../../os/working-directory.ts";
import { exportSocket, PrimaryDisks, type PrimaryDisksOptions, SNAPSHOT } from "../disks/primary-disks.ts";
import { Shipping } from "./shipping.ts";

/** QEMU may stop the VM this long to end the first pass, at first. */
const FIRST_PAUSE_MS = 50;

export interface ProtectionOptions {
  readonly qemu: QemuProcess;
  readonly netdevs: readonly string[];
  /** Their tap devices. */
  readonly taps: readonly string[];
  readonly runDirectory: string;
  readonly stagingBytes: number;
  readonly heldBytes: number;
  readonly connection: Session;
  readonly ids: FrameIds;
  readonly disks: Omit<PrimaryDisksOptions, "qemu" | "runDirectory" | "epochCell" | "connection" | "ids">;
  /** Not before checkpoint N is captured, and then as the link takes it. */
  readonly onSent: (epoch: EpochId) => void;
  /** A checkpoint is in staging and on its way. @param pages of RAM that it has */
  readonly onCaptured: (epoch: EpochId, pages: number) => void;
  readonly onRequested: () => void;
  /** Capture gave up. */
  readonly onEnded: (reason: string) => void;
  readonly warn: (text: string) => void;
  /** Holding the output failed. */
  readonly onFailed: (reason: string) => void;
  /** The VM is about to be paused for a moment, by us. */
  readonly onPausing: () => void;
  /** Calls back once the VM runs: a first pass of one that stands still would let it run. */
  readonly whenRunning: (wish: () => void) => void;
  /** Somebody else has stopped the VM, and it is to stay so. */
  readonly staysStopped: () => boolean;
}

export class Protection {
  readonly staging: Staging;
  readonly disks: PrimaryDisks;
  private readonly shipping: Shipping;
  private readonly options: ProtectionOptions;
  private readonly epochCell = new EpochCell();
  private chain: FilterChain | undefined;
  private capture: QemuCapture | undefined;
  private started: Promise<void> = Promise.resolve();
  private hardened: Promise<void> = Promise.resolve();
  /** Nothing begins any more. */
  private readonly givenUp = Promise.withResolvers<void>();
  private stopped = false;
  /** What the capture thread still says is of no interest. */
  private over = false;

  constructor(options: ProtectionOptions) {
    this.options = options;
    this.staging = Staging.ofSize(options.stagingBytes);
    const { connection, ids, qemu, runDirectory } = options;
    const { epochCell, staging } = this;
    this.disks = new PrimaryDisks({ ...options.disks, connection, ids, qemu, runDirectory, epochCell });
    this.shipping = new Shipping(connection, ids, { staging, disks: this.disks.shipping }, options.onSent);
  }

  get runningEpoch(): EpochId {
    return this.epochCell.get();
  }

  /** The first pass has begun, and will end with the VM running. */
  get captures(): boolean {
    return this.capture !== undefined;
  }

  /**
   * Puts the filters in (frames pass), brings the disks into step, and begins the first pass. The VM runs on.
   * Once given up, it does not begin.
   */
  start(): Promise<void> {
    this.started = this.setUp();
    return this.started;
  }

  /** Holds output from here on, then lets the VM run as epoch 1. */
  async beginEpochs(): Promise<void> {
    await this.chain?.hold(0);
    // It may have been given up meanwhile.
    if (this.stopped) return;
    this.capture!.begin();
    this.disks.relax();
  }

  captureCheckpoint(hold: boolean): void {
    this.capture!.capture(hold);
  }

  proceed(): void {
    this.capture!.proceed();
  }

  remind(): Promise<void> {
    return this.capture!.poke();
  }

  release(upTo: EpochId, untilMs: number): void {
    this.chain?.release(upTo, untilMs);
  }

  /** The same for the checkpoint at which the VM is paused, to be handed over. */
  letGo(upTo: EpochId, untilMs: number): void {
    const { qemu, taps, warn } = this.options;
    const why = this.chain?.letGo(upTo, untilMs, { pid: qemu.pid, taps });
    if (why !== undefined) warn(`the VM's last output leaves late, or from the other host: ${why}`);
  }

  /** Only once what the VM has flushed is as safe as one host can make it. */
  releaseAll(): void {
    this.hardened = this.disks.harden().then(() => this.chain?.releaseAll());
  }

  /**
   * The guest has ended, and its VM is paused for good: what it has sent leaves straight to the taps. The
   * backup can take over no more.
   */
  async letOut(): Promise<void> {
    await this.disks.harden();
    const ever = Number.POSITIVE_INFINITY;
    this.letGo(ever, ever);
    await this.chain?.gone;
  }

  /**
   * Tells the backup that protection ends, behind everything that was captured. The backup then lets go of
   * its memory, so what two memories held is put on this host's disks before.
   */
  async goodbye(): Promise<void> {
    await this.disks.harden();
    // It may have been given up meanwhile.
    if (!this.stopped) this.shipping.goodbye();
  }

  /** Offers the VM, held at checkpoint `epoch`, which is acknowledged. */
  handover(epoch: EpochId): void {
    this.shipping.handover(epoch);
  }

  /** Nobody listens any more: nothing waits for the link. */
  abandon(): void {
    this.shipping.abandon();
    this.disks.abandon();
  }

  /**
   * Takes everything out of QEMU again, at whatever point it had come to; the VM runs on as before. Each part
   * takes out what it finds, also after another one has failed to; what is left then is swept up. Rejects if
   * QEMU still has something, and may be asked again.
   */
  async tearDown(): Promise<void> {
    this.giveUp();
    await this.started.catch(() => {});
    await this.hardened;
    const { qemu, runDirectory, staysStopped, warn } = this.options;
    const steps = [
      () => this.capture?.stop(staysStopped()),
      () => this.disks.stop(),
      () => this.chain?.remove(),
    ];
    for (const step of steps)
      await step()?.catch((error: Error) => warn(`taking protection out of QEMU: ${error.message}`));
    await sweep(qemu, { exportSocket: exportSocket(runDirectory), snapshot: SNAPSHOT });
    this.over = true;
  }

  /** The VM is gone: ends the threads. */
  async dispose(): Promise<void> {
    this.giveUp();
    await this.started.catch(() => {});
    await this.capture?.dispose();
    await this.disks.dispose();
    await this.chain?.dispose();
  }

  get heldBytes(): number {
    return this.chain?.heldBytes ?? 0;
  }

  get droppedFrames(): number {
    return this.chain?.droppedFrames ?? 0;
  }

  /** Bytes handed to the link, framing included. */
  get bytesOnWire(): number {
    return this.shipping.bytesOnWire + this.disks.shipping.bytesOnWire;
  }

  private fromCapture(report: CaptureReport): void {
    if (this.over) return;
    const { onCaptured, onEnded, onRequested } = this.options;
    switch (report.kind) {
      case "layout":
        this.shipping.layout({ hypervisor: "qemu", header: report.header, blocks: report.blocks });
        return;
      case "pages":
        this.shipping.pages(report.epoch, report.batch.chunk, report.batch);
        return;
      case "captured":
        // A checkpoint that may lack a disk write must never be called whole (I2).
        if (!this.disks.broken) this.shipping.end(report.epoch, report.device);
        onCaptured(report.epoch, report.pages);
        return;
      case "requested":
        onRequested();
        return;
      case "ended":
        onEnded(report.error ?? "QEMU closed the stream");
        return;
    }
  }

  private giveUp(): void {
    this.stopped = true;
    this.givenUp.resolve();
    this.abandon();
  }

  private async setUp(): Promise<void> {
    const { qemu, netdevs, runDirectory, heldBytes, onFailed, onPausing, whenRunning } = this.options;
    const stopped = () => this.stopped;
    const go = () => {
      if (this.stopped) throw new Error("protection was given up while it began");
    };
    go();
    leaveRemovedDirectory();
    if (netdevs.length > 0)
      this.chain = await FilterChain.insert({
        qmp: qemu.qmp,
        netdevs,
        runDirectory,
        epochCell: this.epochCell,
        limitBytes: heldBytes,
        onFailed,
        onPausing,
        stopped,
      });
    go();
    await this.disks.start();
    await Promise.race([this.givenUp.promise, new Promise<void>(whenRunning)]);
    go();
    this.capture = await QemuCapture.start(qemu.qmp, {
      staging: this.staging,
      epochCell: this.epochCell,
      firstPauseMs: FIRST_PAUSE_MS,
      onReport: (report) => this.fromCapture(report),
      stopped,
    });
  }
}
