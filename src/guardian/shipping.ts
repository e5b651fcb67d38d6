/** From staging to the link: what capture has put into chunks becomes frames, and the chunks are free again once those have left. */

import type { Layout, PageList } from "../codec/replication.ts";
import { CheckpointEncoder } from "../codec/replication-checkpoint.ts";
import { encodeLayout } from "../codec/replication-encode.ts";
import type { FrameIds } from "../codec/replication-header.ts";
import { PageFrameBuffers } from "../codec/replication-pages.ts";
import type { EpochId } from "../core/words.ts";
import type { Connection } from "../link/connection.ts";
import type { Staging } from "../memory/staging.ts";

export class Shipping {
  /** Bytes handed to the link, framing included. */
  bytesOnWire = 0;
  private readonly connection: Connection;
  private readonly ids: FrameIds;
  private readonly staging: Staging;
  private readonly onSent: (epoch: EpochId) => void;
  private readonly buffers = new PageFrameBuffers();
  private readonly held = new Set<number>();
  private encoder: CheckpointEncoder | undefined;
  private abandoned = false;

  /** @param onSent the last frame of a checkpoint has left for the kernel */
  constructor(connection: Connection, ids: FrameIds, staging: Staging, onSent: (epoch: EpochId) => void) {
    this.connection = connection;
    this.ids = ids;
    this.staging = staging;
    this.onSent = onSent;
  }

  layout(layout: Layout): void {
    this.send(encodeLayout(this.ids, layout));
  }

  /** Pages of checkpoint `epoch` that lie in `chunk`. The chunk is given back when they have left, or at once if nobody listens. */
  pages(epoch: EpochId, chunk: number, columns: Omit<PageList, "source">): void {
    if (this.abandoned) {
      this.staging.give(chunk);
      return;
    }
    this.held.add(chunk);
    const list = { ...columns, source: this.staging.chunk(chunk) };
    this.encoder ??= new CheckpointEncoder(this.ids, epoch, this.buffers);
    let waiting = 1;
    const left = () => {
      waiting--;
      if (waiting === 0 && this.held.delete(chunk)) this.staging.give(chunk);
    };
    for (const frame of this.encoder.pages(list)) {
      waiting++;
      this.send(frame, () => {
        this.buffers.giveBack(frame);
        left();
      });
    }
    left();
  }

  /** The device state, and with it the end of checkpoint `epoch`. */
  end(epoch: EpochId, device: Uint8Array): void {
    if (this.abandoned) return;
    const encoder = this.encoder ?? new CheckpointEncoder(this.ids, epoch, this.buffers);
    this.encoder = undefined;
    for (const frame of encoder.deviceState(device)) this.send(frame);
    this.send(encoder.end(), () => this.onSent(epoch));
  }

  /** Nobody listens any more: gives back every chunk, and those to come as they come, so that capture never waits for one. */
  abandon(): void {
    this.abandoned = true;
    for (const chunk of this.held) this.staging.give(chunk);
    this.held.clear();
  }

  private send(frame: Parameters<Connection["send"]>[0], sent?: () => void): void {
    this.bytesOnWire += frame.byteLength;
    this.connection.send(frame, sent);
  }
}
