/**
 * One protection of a running VM, from its first filter to its last: the parts at the primary that take part in a checkpoint, what goes from one to
 * the next, and the order in which they are set up and taken down. A protection that starts again is a new one.
 */
import type { FrameIds } from "../codec/replication-header.ts";
import type { EpochId } from "../core/words.ts";
import { QemuCapture } from "../hypervisor/qemu/capture.ts";
import type { CaptureReport } from "../hypervisor/qemu/capture-orders.ts";
import type { QemuProcess } from "../hypervisor/qemu/process.ts";
import type { Session } from "../link/session.ts";
import { EpochCell } from "../memory/epoch-cell.ts";
import { Staging } from "../memory/staging.ts";
import { FilterChain } from "../net/filter-chain.ts";
import { PrimaryDisks, type PrimaryDisksOptions } from "./primary-disks.ts";
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

  /** Puts the filters in (frames pass), brings the disks into step, and begins the first pass. The VM runs on. */
  start(): Promise<void> {
    this.started = this.setUp();
    return this.started;
  }

  /** Holds output from here on, then lets the VM run as epoch 1. */
  async beginEpochs(): Promise<void> {
    await this.chain?.hold(0);
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

  /** Tells the backup that protection ends, behind everything that was captured. */
  goodbye(): void {
    this.shipping.goodbye();
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

  /** Takes everything out of QEMU again; the VM runs on as before. */
  async tearDown(): Promise<void> {
    this.abandon();
    await this.started.catch(() => {});
    await this.hardened;
    try {
      await this.capture?.stop();
    } finally {
      try {
        await this.disks.stop();
      } finally {
        await this.chain?.remove();
      }
      this.over = true;
    }
  }

  /** The VM is gone: ends the threads. */
  async dispose(): Promise<void> {
    this.abandon();
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

  private async setUp(): Promise<void> {
    const { qemu, netdevs, runDirectory, heldBytes, onFailed } = this.options;
    if (netdevs.length > 0)
      this.chain = await FilterChain.insert({
        qmp: qemu.qmp,
        netdevs,
        runDirectory,
        epochCell: this.epochCell,
        limitBytes: heldBytes,
        onFailed,
      });
    await this.disks.start();
    this.capture = await QemuCapture.start(qemu.qmp, {
      staging: this.staging,
      epochCell: this.epochCell,
      firstPauseMs: FIRST_PAUSE_MS,
      onReport: (report) => this.fromCapture(report),
    });
  }
}
