/**
 * In place of `src/hypervisor/qemu/capture.ts` and the thread behind it: the same orders and reports, the
 * same order of steps inside a pause.
 */
import type { CaptureReport } from "../../../src/hypervisor/qemu/capture-orders.ts";
import type { EpochCell } from "../../../src/memory/epoch-cell.ts";
import { reached } from "../../../src/os/epoch-points.ts";
import { type Guest, PAGES } from "../world/guest.ts";
import { theWorld } from "../world/present.ts";
import type { SimQmp } from "../world/qemu.ts";
import { current, Lane, type SimProcess } from "../world/time.ts";
import type { Staging } from "./staging.ts";

/** So few that an ordinary checkpoint is several messages. */
const PAGES_A_CHUNK = 2;

interface Staged {
  readonly batches: readonly { readonly chunk: number; readonly numbers: readonly number[] }[];
  readonly device: Uint8Array;
}

interface Options {
  readonly staging: Staging;
  readonly epochCell: EpochCell;
  readonly onReport: (report: CaptureReport) => void;
}

export class QemuCapture {
  private readonly world = theWorld();
  private readonly process: SimProcess = current();
  /** From the thread to the guardian. */
  private readonly reports = new Lane(this.process, this.world.time);
  private readonly qmp: SimQmp;
  private readonly options: Options;
  private epoch = 0;
  private waitsFor: "begin" | "capture" | "proceed" | undefined;
  private order: "begin" | "capture" | "hold" | "proceed" | undefined;
  private over = false;

  private constructor(qmp: SimQmp, options: Options) {
    this.qmp = qmp;
    this.options = options;
    qmp.qemu.capture = this;
  }

  static async start(qmp: SimQmp, options: Options): Promise<QemuCapture> {
    await qmp.execute("migrate-set-capabilities");
    const capture = new QemuCapture(qmp, options);
    await qmp.execute("migrate");
    capture.soon(capture.world.firstPassMs, () => capture.endFirstPass());
    return capture;
  }

  begin(): void {
    this.give("begin");
  }

  capture(hold: boolean): void {
    this.give(hold ? "hold" : "capture");
  }

  proceed(): void {
    this.give("proceed");
  }

  async poke(): Promise<void> {
    await this.qmp.execute("migrate-set-parameters");
  }

  async stop(): Promise<void> {
    this.end(undefined);
    await this.process.later(this.world.random.between(2, 30));
    await this.qmp.execute("x-colo-lost-heartbeat");
    this.qmp.qemu.capture = undefined;
    this.qmp.qemu.run();
  }

  async dispose(): Promise<void> {
    this.end(undefined);
  }

  /** QEMU has closed the stream. It lets the VM run on, unless it is kept paused for somebody, or is dead. */
  lost(reason: string): void {
    const held = this.waitsFor === "proceed";
    if (this.over) return;
    this.end(reason);
    if (!held) this.qmp.qemu.run();
  }

  private end(error: string | undefined): void {
    if (this.over) return;
    this.over = true;
    this.reports.post(0.05, () =>
      this.options.onReport({ kind: "ended", ...(error === undefined ? {} : { error }) }),
    );
  }

  private soon(delayMs: number, act: () => void): void {
    this.process.post(delayMs, () => {
      if (this.over || !this.qmp.qemu.alive) return;
      // A QEMU whose main loop is stuck answers when it is not any more.
      if (this.qmp.qemu.hung) this.soon(5, act);
      else act();
    });
  }

  private report(report: CaptureReport): void {
    this.reports.post(this.world.random.between(0.01, 0.1), () => this.options.onReport(report));
  }

  private give(order: "begin" | "capture" | "hold" | "proceed"): void {
    this.order = order;
    this.process.post(0.02, () => this.next());
  }

  /** The thread looks for an order, if it waits for one. */
  private next(): void {
    const { order, waitsFor } = this;
    if (order === undefined || waitsFor === undefined || this.over) return;
    this.order = undefined;
    this.waitsFor = undefined;
    if (waitsFor === "capture" ? order !== "capture" && order !== "hold" : order !== waitsFor) {
      this.lost(`the order "${order}" came where "${waitsFor}" should be`);
      return;
    }
    if (order === "begin") {
      this.options.epochCell.set(1);
      this.epoch = 1;
      this.resume();
    } else if (order === "proceed") this.resume();
    else this.checkpoint(order === "hold");
  }

  private endFirstPass(): void {
    const { qemu } = this.qmp;
    qemu.pause();
    this.soon(this.world.random.between(1, 20), () => {
      const guest = qemu.guest!;
      for (let page = 0; page < PAGES; page++) guest.dirty.add(page);
      this.report({
        kind: "layout",
        header: Uint8Array.of(1),
        blocks: [{ id: 0, name: "pc.ram", bytes: PAGES * 4096 }],
      });
      this.takeState(guest, 0);
      this.waitsFor = "begin";
      this.next();
    });
  }

  private resume(): void {
    this.qmp.qemu.run();
    this.soon(this.world.random.between(1, 3), () => {
      this.report({ kind: "requested" });
      this.waitsFor = "capture";
      this.next();
    });
  }

  private checkpoint(hold: boolean): void {
    const { epochCell } = this.options;
    const { qemu } = this.qmp;
    epochCell.end();
    this.soon(this.world.random.between(0.05, 0.4), () => {
      qemu.pause();
      this.soon(this.world.random.between(0.3, 4), () => {
        const pages = this.stage(qemu.guest!);
        reached("after-capture");
        epochCell.set(this.epoch + 1);
        reached("before-resume");
        const epoch = this.epoch++;
        if (hold) {
          this.reportState(pages, epoch);
          this.waitsFor = "proceed";
          this.next();
          return;
        }
        this.resume();
        reached("after-resume");
        this.reportState(pages, epoch);
      });
    });
  }

  private takeState(guest: Guest, epoch: number): void {
    this.reportState(this.stage(guest), epoch);
  }

  /** What is dirty goes into chunks; and what all of it should be, for the judge. */
  private stage(guest: Guest): Staged {
    const { staging } = this.options;
    const batches: { chunk: number; numbers: number[] }[] = [];
    const dirty = [...guest.dirty];
    guest.dirty.clear();
    while (dirty.length > 0) {
      const numbers = dirty.splice(0, PAGES_A_CHUNK);
      const chunk = staging.take();
      const view = new DataView(staging.chunk(chunk).buffer);
      for (const [i, page] of numbers.entries()) view.setUint32(i * 4096, guest.pages[page]!);
      batches.push({ chunk, numbers });
    }
    return {
      batches,
      device: this.world.keepSnapshot(guest.snapshot(this.qmp.qemu.host.disk.blocks, this.qmp.qemu.plugged)),
    };
  }

  private reportState({ batches, device }: Staged, epoch: number): void {
    for (const { chunk, numbers } of batches)
      this.report({
        kind: "pages",
        epoch,
        batch: {
          chunk,
          count: numbers.length,
          blockIds: new Uint16Array(numbers.length),
          encodings: new Uint8Array(numbers.length),
          pageNumbers: Uint32Array.from(numbers),
          positions: Uint32Array.from(numbers, (_, i) => i * 4096),
        },
      });
    const pages = batches.reduce((sum, { numbers }) => sum + numbers.length, 0);
    const { foresight } = this.world.checker;
    foresight.captured(this.qmp.qemu.host.name, this.world.snapshotOf(device), epoch, pages * 4096);
    this.report({ kind: "captured", epoch, device, pages });
  }
}
