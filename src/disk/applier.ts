/**
 * The backup's hand on its disk images: applies what has come from the primary, in order, through the standby
 * QEMU's own NBD export, so that the format (raw, qcow2) is QEMU's affair. Requests that do not touch one
 * another are under way at the same time.
 */
import { DISK_WRITE, type DiskEntry } from "../codec/replication.ts";
import { aligned, type Extent } from "./extents.ts";
import type { NbdClient } from "./nbd-client.ts";

/** Requests under way at once. QEMU itself takes 16 a connection and reads on when one is done. */
const MOST_UNDER_WAY = 32;

/** Kinds of a `DiskEntry`, as on the wire. */
const APPLY = [
  (disk: NbdClient, { offset, data }: DiskEntry) => disk.write(offset, data!),
  (disk: NbdClient, { offset, length }: DiskEntry) => disk.zero(offset, length),
  (disk: NbdClient, { offset, length }: DiskEntry) => disk.trim(offset, length),
] as const;

/** A disk to put things into. */
export interface AppliedDisk {
  readonly client: NbdClient;
  /** Of an image that is kept in clusters: their size. */
  readonly grainBytes?: number | undefined;
}

interface UnderWay {
  readonly disk: number;
  readonly from: number;
  readonly to: number;
  readonly done: Promise<void>;
}

export class DiskApplier {
  /** Waited for before bytes of a disk change. Must not reject. */
  beforeChange: ((disk: number, offset: number, length: number) => Promise<void>) | undefined;
  private readonly disks: ReadonlyMap<number, AppliedDisk>;
  private readonly underWay = new Set<UnderWay>();
  private turn: Promise<void> = Promise.resolve();
  private failure: Error | undefined;

  constructor(disks: ReadonlyMap<number, AppliedDisk>) {
    this.disks = disks;
  }

  /**
   * Applies entries behind all that were given before. Resolves when they and those are in the image, which
   * may be in the host's memory only: see `flush`. Rejects with the first error of any request, and so does
   * every later call: an image with a hole in it is no image.
   */
  apply(entries: readonly DiskEntry[]): Promise<void> {
    const before = this.turn;
    const issued = (async () => {
      await before;
      for (const entry of entries) {
        await this.roomFor(entry);
        if (this.failure !== undefined) break;
        this.issue(entry);
      }
      // In an object, or it would be waited for here.
      return { done: Promise.allSettled([...this.underWay].map(({ done }) => done)) };
    })();
    this.turn = issued.then(() => {});
    return issued.then(async ({ done }) => {
      await done;
      if (this.failure !== undefined) throw this.failure;
    });
  }

  /** Puts everything that was applied on stable storage. */
  async flush(): Promise<void> {
    await this.turn;
    await Promise.all([...this.disks.values()].map(({ client }) => client.flush()));
  }

  /** Resolves when nothing is under way any more, well or not. */
  async idle(): Promise<void> {
    await this.turn;
    await Promise.allSettled([...this.underWay].map(({ done }) => done));
  }

  /** Lets go of the images. What is under way is finished first. */
  async close(): Promise<void> {
    await this.idle();
    await Promise.all([...this.disks.values()].map(({ client }) => client.disconnect()));
  }

  private issue(entry: DiskEntry): void {
    const { disk, kind, offset, length } = entry;
    const apply = () => APPLY[kind]!(this.disks.get(disk)!.client, entry);
    const done = this.beforeChange?.(disk, offset, length).then(apply) ?? apply();
    const one: UnderWay = { disk, ...this.dial(entry), done };
    this.underWay.add(one);
    const settled = () => this.underWay.delete(one);
    done.then(settled, (error: Error) => {
      this.failure ??= error;
      settled();
    });
  }

  /** Waits for what overlaps, and for one of the others if there are too many. */
  private async roomFor(entry: DiskEntry): Promise<void> {
    const { from, to } = this.dial(entry);
    for (;;) {
      const overlapping = [...this.underWay].filter(
        (one) => one.disk === entry.disk && one.from < to && from < one.to,
      );
      if (overlapping.length > 0) await Promise.allSettled(overlapping.map(({ done }) => done));
      else if (this.underWay.size >= MOST_UNDER_WAY)
        await Promise.race([...this.underWay].map(({ done }) => done.catch(() => {})));
      else return;
    }
  }

  /**
   * What an entry may touch. A zero or discard may take the whole cluster with it, and QEMU before 11.1 does
   * so even while another request writes into the same one: then two places of the disk end up in one cluster
   * (docs/specs/qemu-disks.md).
   */
  private dial({ disk, kind, offset, length }: DiskEntry): Extent {
    const { grainBytes = 1 } = this.disks.get(disk)!;
    const extent = { from: offset, to: offset + length };
    return kind === DISK_WRITE ? extent : aligned(extent, grainBytes, Number.POSITIVE_INFINITY);
  }
}
