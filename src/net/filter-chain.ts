/**
 * Holding guest output with QEMU's stock network filters, three per NIC, put into and taken out of a running
 * VM (docs/specs/output-hold.md). A frame of the guest meets `capture`, which hands it to our holding thread;
 * `sink`, which swallows whatever gets past a capture that has lost its reader (fail closed); and `inject`,
 * where released frames come back in.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import type { EpochId } from "../core/words.ts";
import type { Qmp } from "../hypervisor/qemu/qmp.ts";
import type { EpochCell } from "../memory/epoch-cell.ts";
import { borrowTap } from "../os/borrowed-tap.ts";
import { closeDescriptor } from "../os/socket.ts";
import { CHARDEV, type Chardev, filtersOf, namesOf } from "./filters-there.ts";
import {
  HOLD_WORD,
  HOLD_WORD_COUNT,
  type HoldOrder,
  type HoldReport,
  type HoldWorkerData,
} from "./hold-orders.ts";

const STEP_TIMEOUT_MS = 5_000;

export interface FilterChainOptions {
  readonly qmp: Qmp;
  /** QEMU ids of the netdevs, in order. */
  readonly netdevs: readonly string[];
  readonly runDirectory: string;
  readonly epochCell: EpochCell;
  /** Bytes of output that may wait per NIC; what comes on top is dropped. */
  readonly limitBytes: number;
  /** The holding thread or a socket failed while output was held. */
  readonly onFailed: (reason: string) => void;
  /** They are not wanted any more: then no further one is put in. */
  readonly stopped?: () => boolean;
  /** The VM is about to be paused for a moment, by us. */
  readonly onPausing?: () => void;
}

export class FilterChain {
  private readonly options: FilterChainOptions;
  private readonly worker: Worker;
  private readonly words: BigInt64Array;
  private readonly waiting = new Set<(report: HoldReport) => void>();
  private removing = false;
  private broken = false;
  private letting: Promise<void> = Promise.resolve();

  private constructor(options: FilterChainOptions) {
    this.options = options;
    const words = new SharedArrayBuffer(HOLD_WORD_COUNT * 8);
    this.words = new BigInt64Array(words);
    const data: HoldWorkerData = {
      nics: options.netdevs.map((netdev) => this.paths(netdev)),
      epoch: options.epochCell.shared,
      words,
      limitBytes: options.limitBytes,
    };
    for (const netdev of options.netdevs) this.removeSockets(netdev);
    this.worker = new Worker(new URL("./hold-worker.ts", import.meta.url), { workerData: data });
    this.worker.on("message", (report: HoldReport) => this.receive(report));
    this.worker.on("error", (error) => this.receive({ kind: "failed", error: error.message }));
  }

  /**
   * Puts the filters into the running VM. Frames pass through us from here on, and are not held yet. When it
   * fails, or is stopped, all is as it was.
   */
  static async insert(options: FilterChainOptions): Promise<FilterChain> {
    const chain = new FilterChain(options);
    try {
      await chain.expect((report) => report.kind === "listening");
      for (const netdev of options.netdevs) await chain.insertFor(netdev);
      return chain;
    } catch (error) {
      await chain.remove();
      throw error;
    }
  }

  /** Holds everything of epochs after `upTo`. Resolves once that is so. */
  async hold(upTo: EpochId): Promise<void> {
    const holding = this.expect((report) => report.kind === "holding");
    this.order({ kind: "hold", upTo });
    await holding;
  }

  /**
   * Lets out what epochs up to `upTo` have sent, if that can be done by `untilMs` of CLOCK_BOOTTIME; else the
   * next order does.
   */
  release(upTo: EpochId, untilMs: number): void {
    this.order({ kind: "release", upTo, untilMs });
  }

  /**
   * The VM is paused at checkpoint `upTo`: lets out all that waits, straight to QEMU's taps. `pid` is QEMU's,
   * `taps` the devices of its cards. Where they cannot be had it is an ordinary release, which leaves when
   * the VM runs on. Returns why, then.
   */
  letGo(
    upTo: EpochId,
    untilMs: number,
    { pid, taps }: { pid: number; taps: readonly string[] },
  ): string | undefined {
    const borrowed: number[] = [];
    const giveBack = () => {
      for (const tap of borrowed.splice(0)) closeDescriptor(tap);
    };
    try {
      for (const tap of taps) borrowed.push(borrowTap(pid, tap));
    } catch (error) {
      giveBack();
      this.release(upTo, untilMs);
      return (error as Error).message;
    }
    const gone = this.expect((report) => report.kind === "gone");
    this.order({ kind: "let-go", upTo, untilMs, taps: [...borrowed] });
    this.letting = gone.catch(() => {}).finally(giveBack);
    return undefined;
  }

  /** When what was let go last has left, or could not. */
  get gone(): Promise<void> {
    return this.letting;
  }

  /** Lets out everything, and whatever comes. */
  releaseAll(): void {
    const ever = Number.POSITIVE_INFINITY;
    this.order({ kind: "release", upTo: ever, untilMs: ever });
  }

  /**
   * Takes the filters out, as many of them as there are; nothing is lost or reordered. The VM is stopped for
   * the few milliseconds in which frames may still be on their way through us: one sent past them would
   * overtake. May be asked again.
   */
  async remove(): Promise<void> {
    this.releaseAll();
    this.removing = true;
    const { netdevs, onPausing, qmp } = this.options;
    try {
      const there = await filtersOf(qmp);
      const none = netdevs.every((netdev) => namesOf(netdev).every((id) => !there.has(id)));
      if (none) return;
      const { running } = await qmp.execute<{ running: boolean }>("query-status");
      if (running) onPausing?.();
      if (running) await qmp.execute("stop");
      try {
        await this.takeOut(there);
      } finally {
        if (running) await qmp.execute("cont");
      }
    } finally {
      this.broken = true;
      await this.worker.terminate();
      for (const netdev of netdevs) this.removeSockets(netdev);
    }
  }

  /** @param there ids of filters and character devices */
  private async takeOut(there: ReadonlySet<string>): Promise<void> {
    const { netdevs, qmp } = this.options;
    // A card that has not got so far passes nothing through us.
    const connected = netdevs.filter(
      (netdev) => !this.broken && there.has(`${CHARDEV}remus-capture-${netdev}`),
    );
    const drained = Promise.all(
      connected.map((netdev) => {
        const nic = netdevs.indexOf(netdev);
        return this.expect((report) => report.kind === "drained" && report.nic === nic);
      }),
    );
    // Should a step before it fail, that failure is the one to be told.
    drained.catch(() => {});
    const remove = async (id: string) => {
      if (there.has(id)) await qmp.execute("object-del", { id });
    };
    const disconnect = async (id: string) => {
      if (there.has(CHARDEV + id)) await qmp.execute("chardev-remove", { id });
    };
    for (const netdev of netdevs) {
      await remove(`remus-sink-${netdev}`);
      await remove(`remus-capture-${netdev}`);
      await disconnect(`remus-capture-${netdev}`);
    }
    // Without its thread nothing is left to drain.
    if (!this.broken) await drained;
    for (const netdev of netdevs) {
      if (connected.includes(netdev)) await this.untilRead(netdev);
      await remove(`remus-inject-${netdev}`);
      await disconnect(`remus-inject-${netdev}`);
      await disconnect(`remus-sink-${netdev}`);
    }
  }

  /** QEMU is gone: ends the thread. What is held is lost. */
  async dispose(): Promise<void> {
    this.removing = true;
    this.broken = true;
    await this.worker.terminate();
    for (const netdev of this.options.netdevs) this.removeSockets(netdev);
  }

  get heldBytes(): number {
    return Number(Atomics.load(this.words, HOLD_WORD.heldBytes));
  }

  get droppedFrames(): number {
    return Number(Atomics.load(this.words, HOLD_WORD.droppedFrames));
  }

  private paths(netdev: string): { capturePath: string; injectPath: string } {
    return {
      capturePath: join(this.options.runDirectory, `capture-${netdev}.sock`),
      injectPath: join(this.options.runDirectory, `inject-${netdev}.sock`),
    };
  }

  private removeSockets(netdev: string): void {
    const { capturePath, injectPath } = this.paths(netdev);
    for (const path of [capturePath, injectPath]) rmSync(path, { force: true });
  }

  /** The order matters: QEMU walks guest output from the last filter in its list to the first. */
  private async insertFor(netdev: string): Promise<void> {
    const { capturePath, injectPath } = this.paths(netdev);
    await this.chardev(`remus-inject-${netdev}`, injectPath);
    await this.chardev(`remus-capture-${netdev}`, capturePath);
    await this.chardev(`remus-sink-${netdev}`, undefined);
    await this.filter("inject", netdev, { indev: `remus-inject-${netdev}` });
    await this.filter("capture", netdev, { outdev: `remus-capture-${netdev}` });
    await this.filter("sink", netdev, {
      outdev: `remus-sink-${netdev}`,
      position: `id=remus-inject-${netdev}`,
      insert: "behind",
    });
  }

  private async chardev(id: string, path: string | undefined): Promise<void> {
    const backend =
      path === undefined
        ? { type: "null", data: {} }
        : { type: "socket", data: { addr: { type: "unix", data: { path } }, server: false } };
    await this.add("chardev-add", { id, backend });
  }

  private async filter(kind: string, netdev: string, more: Record<string, string>): Promise<void> {
    const id = `remus-${kind}-${netdev}`;
    const filter = { "qom-type": "filter-redirector", id, netdev, queue: "rx", ...more };
    await this.add("object-add", filter);
  }

  private async add(command: string, what: Record<string, unknown>): Promise<void> {
    if (this.options.stopped?.() === true) throw new Error("protection was given up while it began");
    await this.options.qmp.execute(command, what);
  }

  /** QEMU has read all released frames once it has noticed that our side of the inject socket ended. */
  private async untilRead(netdev: string): Promise<void> {
    const { qmp } = this.options;
    const id = `remus-inject-${netdev}`;
    const deadline = Date.now() + STEP_TIMEOUT_MS;
    while (!this.broken) {
      const chardevs = await qmp.execute<Chardev[]>("query-chardev");
      const chardev = chardevs.find(({ label }) => label === id);
      if (chardev === undefined || chardev.filename.startsWith("disconnected")) break;
      if (Date.now() > deadline) throw new Error(`QEMU did not read the last frames of ${netdev} in time`);
      await new Promise((again) => setTimeout(again, 1));
    }
  }

  private order(order: HoldOrder): void {
    this.worker.postMessage(order);
  }

  private receive(report: HoldReport): void {
    for (const look of this.waiting) look(report);
    if (report.kind !== "failed") return;
    this.broken = true;
    if (!this.removing) this.options.onFailed(report.error);
  }

  private expect(wanted: (report: HoldReport) => boolean): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(
      () => reject(new Error("the thread that holds output did not answer")),
      STEP_TIMEOUT_MS,
    );
    const look = (report: HoldReport) => {
      if (wanted(report)) resolve();
      else if (report.kind === "failed") reject(new Error(`holding output: ${report.error}`));
    };
    this.waiting.add(look);
    return promise.finally(() => {
      clearTimeout(timer);
      this.waiting.delete(look);
    });
  }
}
