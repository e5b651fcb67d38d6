// What makes the messages between two CHECKPOINT_ENDs one checkpoint: the running digest that both sides
// keep, and the primary's way to turn staging into frames.

import { crc32 } from "node:zlib";
import {
  type CheckpointSummary,
  type DiskSummary,
  hex,
  type Layout,
  MAX_PAGES_PER_MESSAGE,
  type MessageOf,
  PAGE_BYTES,
  type PageList,
  ProtocolError,
} from "./replication.ts";
import { encodeCheckpointEnd, encodeDeviceState, type Frame } from "./replication-encode.ts";
import type { FrameIds } from "./replication-header.ts";
import { encodePages, type PageFrameBuffers } from "./replication-pages.ts";

/** crc32 over checksums (u32, big-endian), in the order given. */
class Crcs {
  value = 0;
  /**
   * Not a DataView: Node 24's `crc32`, once optimized for buffers, takes one for no view at all and throws.
   */
  readonly #word = Buffer.alloc(4);

  add(crc: number): void {
    this.#word.writeUInt32BE(crc);
    this.value = crc32(this.#word, this.value);
  }
}

/**
 * Counts and digests the DISK messages of one epoch. It is kept apart from the digest of the pages since DISK
 * messages of the running epoch go out between the PAGES of the checkpoint before.
 */
export class DiskDigest {
  #entries = 0;
  readonly #digest = new Crcs();

  get summary(): DiskSummary {
    return { entries: this.#entries, digest: this.#digest.value };
  }

  add(payloadCrc: number, entries: number): void {
    this.#entries += entries;
    this.#digest.add(payloadCrc);
  }
}

/**
 * Counts and digests one checkpoint: over the payload checksums of its PAGES and DEVICE_STATE messages, in
 * order, and over those of its DISK messages, in order. Equal on both sides means: nothing lost, doubled or
 * out of order.
 */
export class CheckpointDigest {
  readonly epoch: number;
  #pageEntries = 0;
  #deviceStateBytes = 0;
  #deviceStateTotal = 0;
  readonly #digest = new Crcs();
  readonly #disk = new DiskDigest();

  constructor(epoch: number) {
    this.epoch = epoch;
  }

  /** Of pages and device state alone. */
  get summary(): Omit<CheckpointSummary, "diskEntries" | "diskDigest"> {
    return {
      pageEntries: this.#pageEntries,
      deviceStateBytes: this.#deviceStateBytes,
      digest: this.#digest.value,
    };
  }

  addPages(payloadCrc: number, entries: number): void {
    this.#pageEntries += entries;
    this.#digest.add(payloadCrc);
  }

  /** Pieces must follow one another without gap or overlap. @throws ProtocolError */
  addDeviceState(payloadCrc: number, piece: { total: number; offset: number; length: number }): void {
    if (piece.offset !== this.#deviceStateBytes) {
      throw new ProtocolError(
        "bad-checkpoint",
        "device-state offset",
        piece.offset,
        `${this.#deviceStateBytes}`,
      );
    }
    if (this.#deviceStateTotal !== 0 && piece.total !== this.#deviceStateTotal) {
      throw new ProtocolError(
        "bad-checkpoint",
        "device-state total length",
        piece.total,
        `${this.#deviceStateTotal}`,
      );
    }
    this.#deviceStateTotal = piece.total;
    this.#deviceStateBytes += piece.length;
    this.#digest.add(payloadCrc);
  }

  /** Adds a message as received. @throws ProtocolError if it is of another epoch or does not follow */
  addMessage(message: MessageOf<"pages"> | MessageOf<"device-state"> | MessageOf<"disk">): void {
    this.#checkEpoch(message.type, message.epoch);
    if (message.type === "pages") {
      this.addPages(message.payloadCrc, message.pages.count);
    } else if (message.type === "disk") {
      this.#disk.add(message.payloadCrc, message.entries.length);
    } else {
      const { total, offset, bytes } = message.piece;
      this.addDeviceState(message.payloadCrc, { total, offset, length: bytes.byteLength });
    }
  }

  /** The checkpoint is whole, or this throws. @throws ProtocolError naming what is missing */
  check(end: MessageOf<"checkpoint-end">): void {
    this.#checkEpoch(end.type, end.epoch);
    const { pageEntries, deviceStateBytes, digest, diskEntries, diskDigest } = end.summary;
    const disk = this.#disk.summary;
    if (pageEntries !== this.#pageEntries)
      throw wrongEnd("page entries", pageEntries, `${this.#pageEntries} as received`);
    if (this.#deviceStateBytes !== this.#deviceStateTotal || deviceStateBytes !== this.#deviceStateBytes) {
      throw wrongEnd("device state length", deviceStateBytes, `${this.#deviceStateBytes} as received`);
    }
    if (digest !== this.#digest.value)
      throw wrongEnd("digest", hex(digest), `${hex(this.#digest.value)} as received`);
    if (diskEntries !== disk.entries)
      throw wrongEnd("disk entries", diskEntries, `${disk.entries} as received`);
    if (diskDigest !== disk.digest)
      throw wrongEnd("disk digest", hex(diskDigest), `${hex(disk.digest)} as received`);
  }

  #checkEpoch(type: string, epoch: number): void {
    if (epoch !== this.epoch)
      throw new ProtocolError("bad-checkpoint", `${type} epoch`, epoch, `${this.epoch}`);
  }
}

function wrongEnd(field: string, value: unknown, expected: string): ProtocolError {
  return new ProtocolError("bad-checkpoint", `checkpoint-end ${field}`, value, expected);
}

const NO_DISK: DiskSummary = { entries: 0, digest: 0 };

/**
 * The frames of one checkpoint at the primary, in the order in which they must be sent: pages and device
 * state in any order and number, then end().
 */
export class CheckpointEncoder {
  readonly #ids: FrameIds;
  readonly #buffers: PageFrameBuffers;
  readonly #digest: CheckpointDigest;

  constructor(ids: FrameIds, epoch: number, buffers: PageFrameBuffers) {
    this.#ids = ids;
    this.#buffers = buffers;
    this.#digest = new CheckpointDigest(epoch);
  }

  /** Each frame is built when it is asked for; give it back to the buffers when it has left. */
  *pages(list: PageList): Generator<Frame> {
    for (let from = 0; from < list.count; from += MAX_PAGES_PER_MESSAGE) {
      const to = Math.min(list.count, from + MAX_PAGES_PER_MESSAGE);
      const frame = encodePages(this.#ids, this.#digest.epoch, list, from, to, this.#buffers.take());
      this.#digest.addPages(frame.payloadCrc, to - from);
      yield frame;
    }
  }

  /** The whole device state, once per checkpoint; its bytes must stay until the frames have left. */
  *deviceState(state: Uint8Array): Generator<Frame> {
    let offset = 0;
    for (const frame of encodeDeviceState(this.#ids, this.#digest.epoch, state)) {
      const length = frame.parts.at(-1)!.byteLength;
      this.#digest.addDeviceState(frame.payloadCrc, { total: state.byteLength, offset, length });
      offset += length;
      yield frame;
    }
  }

  /** @param disk the DISK messages of this epoch, all of which were sent before */
  end(disk: DiskSummary = NO_DISK): Frame {
    const { summary, epoch } = this.#digest;
    const whole = { ...summary, diskEntries: disk.entries, diskDigest: disk.digest };
    return encodeCheckpointEnd(this.#ids, epoch, whole);
  }
}

/** Which pages there are, by a layout. A page outside would be a write outside the backup's RAM image. */
export class PageBounds {
  readonly #pagesOfBlock = new Map<number, number>();

  constructor(layout: Layout) {
    for (const block of layout.blocks) this.#pagesOfBlock.set(block.id, block.bytes / PAGE_BYTES);
  }

  /** @throws ProtocolError */
  check(list: PageList): void {
    let block = -1;
    let pages = 0;
    for (let i = 0; i < list.count; i++) {
      const id = list.blockIds[i]!;
      if (id !== block) {
        const known = this.#pagesOfBlock.get(id);
        if (known === undefined)
          throw new ProtocolError("bad-page", `pages entry ${i} block`, id, "a block of the layout");
        block = id;
        pages = known;
      }
      const page = list.pageNumbers[i]!;
      if (page >= pages) {
        throw new ProtocolError(
          "bad-page",
          `pages entry ${i} page number`,
          page,
          `below ${pages} in block ${id}`,
        );
      }
    }
  }
}
