/**
 * From staging to the link: what capture has put into chunks becomes frames, and the chunks are free again
 * once those need not be sent again.
 */

import type { Layout, PageList } from "../../codec/replication.ts";
import { CheckpointEncoder } from "../../codec/replication-checkpoint.ts";
import { encodeGoodbye, encodeHandover, encodeLayout } from "../../codec/replication-encode.ts";
import type { FrameIds } from "../../codec/replication-header.ts";
import { PageFrameBuffers } from "../../codec/replication-pages.ts";
import type { EpochId } from "../../core/words.ts";
import type { Session } from "../../link/session.ts";
import type { Fate } from "../../link/stream.ts";
import type { Staging } from "../../memory/staging.ts";
import type { DiskShipping } from "../disks/disk-shipping.ts";

export class Shipping {
  /** Bytes handed to the link, framing included. */
  bytesOnWire = 0;
  private readonly connection: Session;
  private readonly ids: FrameIds;
  private readonly staging: Staging;
  private readonly disks: DiskShipping;
  private readonly onSent: (epoch: EpochId) => void;
  private readonly buffers = new PageFrameBuffers();
  private readonly held = new Set<number>();
  private encoder: CheckpointEncoder | undefined;
  private abandoned = false;
  private queue: (() => void)[] = [];
  private next: NodeJS.Immediate | undefined;

  /** @param onSent the last frame of a checkpoint has left for the kernel */
  constructor(
    connection: Session,
    ids: FrameIds,
    parts: { readonly staging: Staging; readonly disks: DiskShipping },
    onSent: (epoch: EpochId) => void,
  ) {
    this.connection = connection;
    this.ids = ids;
    this.staging = parts.staging;
    this.disks = parts.disks;
    this.onSent = onSent;
  }

  layout(layout: Layout): void {
    this.inTurn(() => this.send(encodeLayout(this.ids, layout)));
  }

  /**
   * Pages of checkpoint `epoch` that lie in `chunk`. The chunk is given back when they are done with, or at
   * once if nobody listens.
   */
  pages(epoch: EpochId, chunk: number, columns: Omit<PageList, "source">): void {
    if (this.abandoned) {
      this.staging.give(chunk);
      return;
    }
    this.held.add(chunk);
    this.inTurn(() => this.shipPages(epoch, chunk, columns));
  }

  /**
   * The device state, and with it the end of checkpoint `epoch`: behind its pages and all disk writes of its
   * epoch.
   */
  end(epoch: EpochId, device: Uint8Array): void {
    this.disks.whenSent(() => this.inTurn(() => this.shipEnd(epoch, device)));
  }

  /** Tells the backup that protection ends, behind everything that was captured. */
  goodbye(): void {
    this.disks.whenSent(() => this.inTurn(() => this.send(encodeGoodbye(this.ids))));
  }

  /** Offers the VM, held at checkpoint `epoch`, which is acknowledged. */
  handover(epoch: EpochId): void {
    this.inTurn(() => this.send(encodeHandover(this.ids, epoch)));
  }

  /**
   * Nobody listens any more: gives back every chunk, and those to come as they come, so that capture never
   * waits for one.
   */
  abandon(): void {
    this.abandoned = true;
    this.queue = [];
    clearImmediate(this.next);
    for (const chunk of this.held) this.staging.give(chunk);
    this.held.clear();
  }

  private shipPages(epoch: EpochId, chunk: number, columns: Omit<PageList, "source">): void {
    const list = { ...columns, source: this.staging.chunk(chunk) };
    this.encoder ??= new CheckpointEncoder(this.ids, epoch, this.buffers);
    let waiting = 1;
    const done = () => {
      waiting--;
      if (waiting === 0 && this.held.delete(chunk)) this.staging.give(chunk);
    };
    for (const frame of this.encoder.pages(list)) {
      waiting++;
      const free = () => {
        this.buffers.giveBack(frame);
        done();
      };
      this.send(frame, { free });
    }
    done();
  }

  private shipEnd(epoch: EpochId, device: Uint8Array): void {
    const encoder = this.encoder ?? new CheckpointEncoder(this.ids, epoch, this.buffers);
    this.encoder = undefined;
    for (const frame of encoder.deviceState(device)) this.send(frame);
    this.send(encoder.end(this.disks.summary(epoch)), { left: () => this.onSent(epoch) });
  }

  /**
   * One piece of work now if none waits, else after the others, each in a turn of its own: in a first pass
   * many chunks come at once, and this thread must go on hearing and sending heartbeats.
   */
  private inTurn(work: () => void): void {
    if (this.abandoned) return;
    this.queue.push(work);
    if (this.next === undefined) this.work();
  }

  private work(): void {
    this.queue.shift()!();
    this.next = setImmediate(() => {
      this.next = undefined;
      if (this.queue.length > 0) this.work();
    });
  }

  private send(frame: Parameters<Session["send"]>[0], fate?: Fate): void {
    this.bytesOnWire += frame.byteLength;
    this.connection.send(frame, fate);
  }
}
