/**
 * In place of `src/net/filter-chain.ts` and the thread behind it (hold-worker.ts): frames that meet it are
 * read a little later, tagged with the epoch that runs then, and kept by the production `HeldOutput`.
 */
import type { EpochCell } from "../../../src/memory/epoch-cell.ts";
import { HeldOutput } from "../../../src/net/held-output.ts";
import { monotonicMs } from "../../../src/os/monotonic.ts";
import type { Frame } from "../world/guest.ts";
import { theWorld } from "../world/present.ts";
import type { SimQmp } from "../world/qemu.ts";
import { current, Lane, type SimProcess } from "../world/time.ts";

const FRAME_BYTES = 1500;
/** A limit that a run can come to. */
const LIMIT_BYTES = 400 * FRAME_BYTES;

/** A frame, to whoever asks no more of it than how long it is. */
type Piece = Uint8Array & { readonly frame: Frame };

interface Options {
  readonly qmp: SimQmp;
  readonly epochCell: EpochCell;
  readonly onFailed: (reason: string) => void;
}

export class FilterChain {
  private readonly world = theWorld();
  private readonly process: SimProcess = current();
  private readonly frames = new Lane(this.process, this.world.time);
  private readonly orders = new Lane(this.process, this.world.time);
  private readonly options: Options;
  private readonly held = new HeldOutput(LIMIT_BYTES, Number.POSITIVE_INFINITY);
  private broken = false;
  private unread = 0;

  private constructor(options: Options) {
    this.options = options;
  }

  static async insert(options: Options): Promise<FilterChain> {
    const chain = new FilterChain(options);
    await options.qmp.execute("object-add");
    options.qmp.qemu.chain = chain;
    return chain;
  }

  get heldBytes(): number {
    return this.held.heldBytes;
  }

  get droppedFrames(): number {
    return this.held.droppedFrames;
  }

  /** A frame of the guest's waits in the socket for the thread to read it. */
  arrive(frame: Frame): void {
    if (this.broken) return;
    this.unread++;
    this.frames.post(this.world.random.between(0.01, 0.4), () => {
      this.unread--;
      if (this.broken) return;
      // Read first, then ask for the epoch: see EpochCell.
      const piece = { length: FRAME_BYTES, frame } as unknown as Piece;
      if (this.held.take(this.options.epochCell.get(), piece, 1) !== undefined) this.pass(piece);
    });
  }

  hold(upTo: number): Promise<void> {
    return new Promise((resolve) =>
      this.orders.post(this.world.random.between(0.05, this.world.nature.holdMs), () => {
        this.held.hold(upTo);
        this.process.post(0.1, resolve);
      }),
    );
  }

  release(upTo: number, untilMs: number): void {
    this.orders.post(this.world.random.between(0.02, 0.5), () => {
      if (monotonicMs() > untilMs) return;
      for (const piece of this.held.release(upTo)) this.pass(piece as Piece);
    });
  }

  /** What waits of a VM that is paused at checkpoint `upTo` leaves straight over the tap. */
  letGo(upTo: number, untilMs: number): undefined {
    this.orders.post(this.world.random.between(0.02, 0.5), () => {
      if (monotonicMs() > untilMs) return;
      for (const piece of this.held.letGo(upTo)) this.pass(piece as Piece);
    });
  }

  readonly gone = Promise.resolve();

  releaseAll(): void {
    this.release(Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY);
  }

  async remove(): Promise<void> {
    this.releaseAll();
    const { qmp } = this.options;
    const { running } = await qmp.execute("query-status");
    if (running) qmp.qemu.pause();
    try {
      await qmp.execute("object-del");
      while (this.unread > 0 && !this.broken) await this.process.later(0.5);
      qmp.qemu.chain = undefined;
      await qmp.execute("object-del");
    } finally {
      if (running) qmp.qemu.run();
    }
  }

  async dispose(): Promise<void> {
    this.broken = true;
  }

  /** A fault: the thread has ended, and what it held is lost. The sink swallows what comes (fail closed). */
  fail(): void {
    if (this.broken) return;
    this.broken = true;
    this.process.post(0.1, () => this.options.onFailed("the holding thread has ended"));
  }

  private pass({ frame }: Piece): void {
    this.world.checker.released(frame, this.options.qmp.qemu.host.name);
  }
}
