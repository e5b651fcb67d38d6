/**
 * Capture: taking checkpoints out of a running QEMU. This is the main thread's side; the work is done by
 * `capture-worker.ts`.
 *
 * The life of a capture: `start` (first pass, VM running) → epoch 0 captured (VM paused) → `begin` →
 * requested → `capture` → captured → requested → … → `stop`. A capture is used once; protection that starts
 * again takes a new one.
 */
import { Worker } from "node:worker_threads";
import type { EpochCell } from "../../memory/epoch-cell.ts";
import type { Staging } from "../../memory/staging.ts";
import { closeDescriptor, setSendBuffer, shutdownSocket, socketPair } from "../../os/socket.ts";
import { type CaptureReport, type CaptureWorkerData, ORDER, WORD, WORD_COUNT } from "./capture-orders.ts";
import { setColo } from "./colo-capability.ts";
import { leaveColo } from "./colo-end.ts";
import type { Qmp } from "./qmp.ts";

/**
 * So much of a checkpoint QEMU can hand over without waiting for our thread to be scheduled; an ordinary one
 * is smaller.
 */
const SOCKET_BUFFER_BYTES = 4 << 20;

/** Under this name QEMU is given its end of the stream. */
const DESCRIPTOR = "remus-capture";
const GIVEN_UP = "protection was given up before capture began";

export interface CaptureOptions {
  readonly staging: Staging;
  readonly epochCell: EpochCell;
  /** The pause that QEMU may take to end the first pass; see migrate-set-parameters, downtime-limit. */
  readonly firstPauseMs: number;
  readonly onReport: (report: CaptureReport) => void;
  /** It is not wanted any more: then it does not begin. */
  readonly stopped?: () => boolean;
}

export class QemuCapture {
  private readonly qmp: Qmp;
  private readonly onReport: (report: CaptureReport) => void;
  private readonly words = new Int32Array(new SharedArrayBuffer(WORD_COUNT * 4));
  private readonly worker: Worker;
  private readonly fd: number;
  private readonly ended = Promise.withResolvers<void>();
  private stopped = false;

  private constructor(qmp: Qmp, fd: number, options: CaptureOptions) {
    this.qmp = qmp;
    this.fd = fd;
    this.onReport = options.onReport;
    const data: CaptureWorkerData = {
      fd,
      words: this.words.buffer as SharedArrayBuffer,
      epoch: options.epochCell.shared,
      staging: options.staging.shared,
    };
    this.worker = new Worker(new URL("./capture-worker.ts", import.meta.url), { workerData: data });
    this.worker.on("message", (report: CaptureReport) => this.receive(report));
    this.worker.on("error", (error) =>
      this.receive({ kind: "ended", error: `capture thread: ${error.message}` }),
    );
    this.worker.on("exit", () => this.ended.resolve());
  }

  /**
   * Begins the first pass. Fails with QEMU's own words when it refuses, or when it is stopped; QEMU is then
   * as it was.
   */
  static async start(qmp: Qmp, options: CaptureOptions): Promise<QemuCapture> {
    if (options.stopped?.() === true) throw new Error(GIVEN_UP);
    await setColo(qmp, true);
    try {
      return await QemuCapture.migrate(qmp, options);
    } catch (error) {
      await leaveColo(qmp);
      throw error;
    }
  }

  private static async migrate(qmp: Qmp, options: CaptureOptions): Promise<QemuCapture> {
    const go = () => {
      if (options.stopped?.() === true) throw new Error(GIVEN_UP);
    };
    go();
    await qmp.execute("migrate-set-parameters", {
      "max-bandwidth": 2 ** 40,
      "downtime-limit": options.firstPauseMs,
      "x-checkpoint-delay": 1,
    });
    go();
    const [ours, qemus] = socketPair();
    let capture: QemuCapture | undefined;
    try {
      setSendBuffer(qemus, SOCKET_BUFFER_BYTES);
      await qmp.passDescriptor(DESCRIPTOR, qemus);
      capture = new QemuCapture(qmp, ours, options);
      go();
      await qmp.execute("migrate", { uri: `fd:${DESCRIPTOR}` });
      return capture;
    } catch (error) {
      if (capture === undefined) closeDescriptor(ours);
      await capture?.stopWorker();
      // It may not have come so far as to use it.
      await qmp.execute("closefd", { fdname: DESCRIPTOR }).catch(() => {});
      throw error;
    } finally {
      closeDescriptor(qemus);
    }
  }

  /** Lets the VM run as epoch 1, after the first pass. */
  begin(): void {
    this.order(ORDER.begin);
  }

  /** Takes the checkpoint that QEMU has requested. With `hold` the VM stays paused until `proceed`. */
  capture(hold: boolean): void {
    this.order(hold ? ORDER.captureAndHold : ORDER.capture);
  }

  proceed(): void {
    this.order(ORDER.proceed);
  }

  /** Makes QEMU ask for a checkpoint now. Its own timer follows the wall clock, which may be set back. */
  async poke(): Promise<void> {
    await this.qmp.execute("migrate-set-parameters", { "x-checkpoint-delay": 1 });
  }

  /**
   * Ends capture wherever it stands and brings QEMU back to where a new one can start. The VM runs
   * afterwards, unless somebody else has stopped it. May be asked again. @param keepPaused as in `leaveColo`
   */
  async stop(keepPaused = false): Promise<void> {
    await this.stopWorker();
    await leaveColo(this.qmp, keepPaused);
  }

  /** QEMU is gone: ends the thread. */
  dispose(): Promise<void> {
    return this.stopWorker();
  }

  private order(order: number): void {
    Atomics.store(this.words, WORD.order, order);
    this.ring();
  }

  private ring(): void {
    Atomics.add(this.words, WORD.bell, 1);
    Atomics.notify(this.words, WORD.bell);
  }

  private receive(report: CaptureReport): void {
    this.onReport(report);
    if (report.kind === "ended") this.ended.resolve();
  }

  private async stopWorker(): Promise<void> {
    if (this.stopped) return;
    this.stopped = true;
    Atomics.store(this.words, WORD.quit, 1);
    this.ring();
    shutdownSocket(this.fd);
    await this.ended.promise;
    await this.worker.terminate();
    closeDescriptor(this.fd);
  }
}
