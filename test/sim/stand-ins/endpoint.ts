/**
 * In place of `src/disk/endpoint.ts` and the thread behind it: takes the guest's writes, notes them first,
 * tags them with the running epoch.
 */
import type { WriteRing } from "../../../src/disk/write-ring.ts";
import type { EpochCell } from "../../../src/memory/epoch-cell.ts";
import { theWorld } from "../world/present.ts";
import { BLOCK_BYTES, type IntentLog } from "../world/storage.ts";
import { current, type SimProcess } from "../world/time.ts";

/** As if the log named so much of the disk: it gives way to a new one. */
const LARGE_BYTES = 1 << 30;

interface Options {
  readonly ring: WriteRing;
  readonly epochCell: EpochCell;
  readonly onWritten: () => void;
  readonly onGrown: (path: string, markedBytes: number) => void;
  readonly onFailed: (reason: string) => void;
}

export class DiskEndpoint {
  readonly descriptors = new Map([[0, 3]]);
  private readonly options: Options;
  private readonly process: SimProcess = current();
  private readonly disk = theWorld().hostOf(this.process).disk;
  private noted: IntentLog | undefined;
  private next: IntentLog | undefined;
  private failed = false;

  private constructor(options: Options) {
    this.options = options;
  }

  static async start(options: Options): Promise<DiskEndpoint> {
    await current().later(1);
    const endpoint = new DiskEndpoint(options);
    theWorld().hostOf(current()).qemu!.endpoint = endpoint;
    return endpoint;
  }

  closeDescriptors(): void {}

  async log({ path, session }: { path: string; session: string }): Promise<number> {
    await this.process.later(1);
    this.next = { path, session, blocks: new Set() };
    this.disk.logs = [...this.disk.logs, this.next];
    this.noted ??= this.next;
    return 4;
  }

  /** QEMU has changed to the log that was begun last. */
  useNewLog(): void {
    this.noted = this.next;
    const world = theWorld();
    world.step(world.hostOf(this.process).name, "log-gives-way");
    world.count("logs that gave way");
  }

  /** Its end is no failure any more. */
  retire(): void {}

  async stop(): Promise<void> {
    this.failed = true;
  }

  /** Room for one more write: without it the guest waits. */
  get ready(): boolean {
    return this.failed || this.options.ring.abandoned || this.options.ring.roomBytes >= 4 * BLOCK_BYTES;
  }

  /** First the note, then the image, then the copy, and then the answer. */
  write(block: number, value: number): void {
    const { epochCell, onWritten, ring } = this.options;
    this.note(block);
    this.disk.write(block, value);
    if (this.failed || ring.abandoned) return;
    const data = new Uint8Array(BLOCK_BYTES);
    new DataView(data.buffer).setUint32(0, value);
    ring.write(0, block * BLOCK_BYTES, data, epochCell.get());
    if (ring.publish()) this.process.post(0.05, onWritten);
  }

  private note(block: number): void {
    const { noted } = this;
    if (noted === undefined) return;
    noted.blocks.add(block);
    const { nature, random } = theWorld();
    if (nature.logsGrow && random.chance(0.05))
      this.process.post(0.1, () => this.options.onGrown(noted.path, LARGE_BYTES));
  }

  /** A fault: the mirror gives up. What the guest writes from now on is not copied. */
  fail(): void {
    if (this.failed) return;
    this.failed = true;
    this.options.ring.break();
    this.process.post(theWorld().random.between(0, 60), () => this.options.onFailed("the mirror has failed"));
  }
}
