// PAGES: guest memory on the wire. The hot path of the primary: one contiguous buffer per message, one copy
// per page, nothing allocated per page.
//
//   u32 count | count x { u16 block, u8 encoding, u8 0, u32 page } | 4096 bytes for each raw entry, in order

import { crc32 } from "node:zlib";
import {
  HEADER_BYTES,
  MAX_PAGES_PER_MESSAGE,
  PAGE_BYTES,
  PAGE_ENTRY_BYTES,
  PAGE_RAW,
  PAGE_ZERO,
  PAGES_PAYLOAD_MAX,
  type PageList,
  ProtocolError,
} from "./replication.ts";
import type { Frame } from "./replication-encode.ts";
import { type FrameIds, writeHeader } from "./replication-header.ts";

/**
 * Buffers for PAGES frames, used again and again: the first touch of a fresh MiB costs the kernel's page
 * faults, several times the copy itself. Give a buffer back when the frame has left for the kernel; one that
 * is never given back is ordinary garbage. Keeps at most `keep` idle ones.
 */
export class PageFrameBuffers {
  readonly #idle: Buffer[] = [];
  readonly #keep: number;

  constructor(keep = 16) {
    this.#keep = keep;
  }

  take(): Buffer {
    return this.#idle.pop() ?? Buffer.allocUnsafeSlow(HEADER_BYTES + PAGES_PAYLOAD_MAX);
  }

  giveBack(frame: Frame): void {
    const buffer = frame.reusable;
    if (buffer !== undefined && this.#idle.length < this.#keep) this.#idle.push(buffer);
  }
}

/**
 * One PAGES frame of entries `from` .. `to` of the list, at most MAX_PAGES_PER_MESSAGE, at least one.
 * @param buffer at least 48 + PAGES_PAYLOAD_MAX bytes, not shared memory; the frame lies in it
 * @throws RangeError if the list does not hold what it says
 */
export function encodePages(
  ids: FrameIds,
  epoch: number,
  list: PageList,
  from: number,
  to: number,
  buffer: Buffer,
): Frame {
  const count = to - from;
  if (count < 1 || count > MAX_PAGES_PER_MESSAGE || from < 0 || to > list.count) {
    throw new RangeError(
      `pages ${from}..${to} of ${list.count}: expected 1..${MAX_PAGES_PER_MESSAGE} of them`,
    );
  }
  if (buffer.byteLength < HEADER_BYTES + PAGES_PAYLOAD_MAX) {
    throw new RangeError(
      `pages: a buffer of ${buffer.byteLength} bytes, expected ${HEADER_BYTES + PAGES_PAYLOAD_MAX}`,
    );
  }
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  view.setUint32(HEADER_BYTES, count);
  let entry = HEADER_BYTES + 4;
  for (let i = from; i < to; i++, entry += PAGE_ENTRY_BYTES) {
    const encoding = list.encodings[i]!;
    if (encoding !== PAGE_RAW && encoding !== PAGE_ZERO)
      throw new RangeError(`page ${i}: encoding ${encoding}`);
    view.setUint16(entry, list.blockIds[i]!);
    view.setUint16(entry + 2, encoding << 8);
    view.setUint32(entry + 4, list.pageNumbers[i]!);
  }
  const end = copyRawPages(list, from, to, buffer, entry);
  const payload = buffer.subarray(HEADER_BYTES, end);
  const payloadCrc = crc32(payload);
  writeHeader(buffer, "pages", ids, epoch, payload.byteLength, payloadCrc);
  return { type: "pages", parts: [buffer.subarray(0, end)], byteLength: end, payloadCrc, reusable: buffer };
}

/** Copies runs of raw pages that lie one behind the other in the source in one go. Returns where they end. */
function copyRawPages(list: PageList, from: number, to: number, buffer: Buffer, start: number): number {
  const { encodings, positions } = list;
  // Buffer.copy is a plain memmove also from shared memory; TypedArray.set is three times slower there.
  const source = Buffer.from(list.source.buffer, list.source.byteOffset, list.source.byteLength);
  let target = start;
  let runStart = 0;
  let runEnd = 0;
  for (let i = from; i < to; i++) {
    if (encodings[i] !== PAGE_RAW) continue;
    const position = positions[i]!;
    if (position + PAGE_BYTES > source.byteLength) {
      throw new RangeError(`page ${i}: position ${position} in a source of ${source.byteLength} bytes`);
    }
    if (position !== runEnd) {
      target += source.copy(buffer, target, runStart, runEnd);
      runStart = position;
    }
    runEnd = position + PAGE_BYTES;
  }
  return target + source.copy(buffer, target, runStart, runEnd);
}

/** Reads a PAGES payload; the list's `source` is the payload itself. @throws ProtocolError */
export function decodePages(payload: Uint8Array): PageList {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const count = view.getUint32(0);
  if (count < 1 || count > MAX_PAGES_PER_MESSAGE) {
    throw new ProtocolError("bad-payload", "pages count", count, `1..${MAX_PAGES_PER_MESSAGE}`);
  }
  const contents = 4 + count * PAGE_ENTRY_BYTES;
  if (contents > payload.byteLength) {
    throw new ProtocolError(
      "bad-payload",
      "pages count",
      count,
      `entries within ${payload.byteLength} bytes`,
    );
  }
  const blockIds = new Uint16Array(count);
  const encodings = new Uint8Array(count);
  const pageNumbers = new Uint32Array(count);
  const positions = new Uint32Array(count);
  let position = contents;
  for (let i = 0, entry = 4; i < count; i++, entry += PAGE_ENTRY_BYTES) {
    const encoding = view.getUint8(entry + 2);
    if (encoding > PAGE_ZERO) {
      throw new ProtocolError("bad-payload", `pages entry ${i} encoding`, encoding, "0 (raw) or 1 (zero)");
    }
    const reserved = view.getUint8(entry + 3);
    if (reserved !== 0) throw new ProtocolError("bad-payload", `pages entry ${i} reserved`, reserved, "0");
    blockIds[i] = view.getUint16(entry);
    encodings[i] = encoding;
    pageNumbers[i] = view.getUint32(entry + 4);
    if (encoding === PAGE_RAW) {
      positions[i] = position;
      position += PAGE_BYTES;
    }
  }
  if (position !== payload.byteLength) {
    throw new ProtocolError(
      "bad-payload",
      "pages payload length",
      payload.byteLength,
      `${position} for its entries`,
    );
  }
  return { count, blockIds, encodings, pageNumbers, positions, source: payload };
}
