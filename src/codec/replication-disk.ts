// DISK, HASH_ASK and HASHES: changes of the guest's disks on the wire, and how two images are compared.
//
//   DISK    u32 count | count x { u16 disk, u8 kind, u8 0, u32 length, u64 offset } | data, in order
//   HASHES  u16 disk, u16 0, u32 block size, u64 offset, u32 count | count x 16 bytes

import { crc32 } from "node:zlib";
import {
  DISK_DISCARD,
  DISK_ENTRY_BYTES,
  DISK_WRITE,
  type DiskEntry,
  type DiskEntryKind,
  type DiskSize,
  HASH_BYTES,
  HASH_RANGE_BYTES,
  type HashRange,
  HEADER_BYTES,
  MAX_DISK_DATA_BYTES,
  MAX_DISK_ENTRIES,
  MAX_HASH_BLOCK_BYTES,
  MAX_HASHES_PER_MESSAGE,
  MIN_HASH_BLOCK_BYTES,
  ProtocolError,
} from "./replication.ts";
import { type Frame, frame } from "./replication-encode.ts";
import { type FrameIds, writeHeader } from "./replication-header.ts";
import { Reader } from "./replication-reader.ts";

const U32 = 2 ** 32;

/**
 * One DISK frame: 1 to MAX_DISK_ENTRIES entries with at most MAX_DISK_DATA_BYTES of data, which is copied.
 * @throws RangeError if the entries do not fit a message
 */
export function encodeDisk(ids: FrameIds, epoch: number, entries: readonly DiskEntry[]): Frame {
  if (entries.length < 1 || entries.length > MAX_DISK_ENTRIES) {
    throw new RangeError(`disk: ${entries.length} entries, expected 1..${MAX_DISK_ENTRIES}`);
  }
  const dataBytes = checkedDataBytes(entries);
  const contents = HEADER_BYTES + 4 + entries.length * DISK_ENTRY_BYTES;
  const buffer = Buffer.allocUnsafe(contents + dataBytes);
  buffer.writeUInt32BE(entries.length, HEADER_BYTES);
  let at = HEADER_BYTES + 4;
  let target = contents;
  for (const { disk, kind, offset, length, data } of entries) {
    buffer.writeUInt16BE(disk, at);
    buffer.writeUInt16BE(kind << 8, at + 2);
    buffer.writeUInt32BE(length, at + 4);
    buffer.writeUInt32BE(Math.floor(offset / U32), at + 8);
    buffer.writeUInt32BE(offset % U32, at + 12);
    at += DISK_ENTRY_BYTES;
    // Buffer.copy is a plain memmove also from shared memory; TypedArray.set is three times slower there.
    if (data !== undefined) target += Buffer.from(data.buffer, data.byteOffset, length).copy(buffer, target);
  }
  const payload = buffer.subarray(HEADER_BYTES);
  const payloadCrc = crc32(payload);
  writeHeader(buffer, "disk", ids, epoch, payload.byteLength, payloadCrc);
  return { type: "disk", parts: [buffer], byteLength: buffer.byteLength, payloadCrc };
}

function checkedDataBytes(entries: readonly DiskEntry[]): number {
  let bytes = 0;
  entries.forEach(({ disk, kind, offset, length, data }, index) => {
    const wrong = (what: string) => new RangeError(`disk ${disk}, entry ${index}: ${what}`);
    if (!Number.isInteger(disk) || disk < 0 || disk > 0xffff) throw wrong("its disk does not fit in 16 bits");
    if (!Number.isInteger(length) || length < 1 || length >= U32)
      throw wrong(`${length} bytes, expected 1..${U32 - 1}`);
    if (!Number.isSafeInteger(offset) || offset < 0 || !Number.isSafeInteger(offset + length))
      throw wrong(`offset ${offset} and length ${length} do not fit in 53 bits`);
    const has = data === undefined ? undefined : data.byteLength;
    const expected = kind === DISK_WRITE ? length : undefined;
    if (has !== expected) throw wrong(`kind ${kind} of ${length} bytes with ${has ?? "no"} bytes of data`);
    bytes += has ?? 0;
  });
  if (bytes > MAX_DISK_DATA_BYTES)
    throw new RangeError(`disk: ${bytes} bytes of data, at most ${MAX_DISK_DATA_BYTES}`);
  return bytes;
}

/** Reads a DISK payload; the data of its entries lies in it. @throws ProtocolError */
export function decodeDisk(payload: Uint8Array): DiskEntry[] {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const count = view.getUint32(0);
  if (count < 1 || count > MAX_DISK_ENTRIES)
    throw new ProtocolError("bad-payload", "disk count", count, `1..${MAX_DISK_ENTRIES}`);
  const contents = 4 + count * DISK_ENTRY_BYTES;
  if (contents > payload.byteLength)
    throw new ProtocolError("bad-payload", "disk count", count, `entries within ${payload.byteLength} bytes`);
  const entries: DiskEntry[] = [];
  let at = contents;
  for (let i = 0, entry = 4; i < count; i++, entry += DISK_ENTRY_BYTES) {
    const one = decodeEntry(view, entry, i);
    if (one.kind !== DISK_WRITE) {
      entries.push(one);
      continue;
    }
    const end = at + one.length;
    if (end > payload.byteLength) {
      const expected = `at most the ${payload.byteLength - at} bytes of data left`;
      throw new ProtocolError("bad-payload", `disk entry ${i} length`, one.length, expected);
    }
    entries.push({ ...one, data: payload.subarray(at, end) });
    at = end;
  }
  if (at !== payload.byteLength) {
    const expected = `${at} for its entries`;
    throw new ProtocolError("bad-payload", "disk payload length", payload.byteLength, expected);
  }
  if (at - contents > MAX_DISK_DATA_BYTES) {
    const expected = `at most ${MAX_DISK_DATA_BYTES}`;
    throw new ProtocolError("bad-payload", "disk data length", at - contents, expected);
  }
  return entries;
}

function decodeEntry(view: DataView, at: number, index: number): Omit<DiskEntry, "data"> {
  const wrong = (field: string, value: unknown, expected: string) =>
    new ProtocolError("bad-payload", `disk entry ${index} ${field}`, value, expected);
  const kind = view.getUint8(at + 2);
  if (!isKind(kind)) throw wrong("kind", kind, "0 (write), 1 (zero) or 2 (discard)");
  const flags = view.getUint8(at + 3);
  if (flags !== 0) throw wrong("flags", flags, "0");
  const length = view.getUint32(at + 4);
  if (length === 0) throw wrong("length", length, "1 or more");
  const offset = view.getUint32(at + 8) * U32 + view.getUint32(at + 12);
  if (!Number.isSafeInteger(offset + length)) throw wrong("offset", offset, "below 2^53");
  return { disk: view.getUint16(at), kind, offset, length };
}

function isKind(kind: number): kind is DiskEntryKind {
  return kind <= DISK_DISCARD;
}

export function encodeHashAsk(ids: FrameIds, range: HashRange): Frame {
  return frame("hash-ask", ids, 0, [hashRange(range)]);
}

/** @param hashes 16 bytes for each block of the range, in order; not copied */
export function encodeHashes(ids: FrameIds, range: HashRange, hashes: Uint8Array): Frame {
  if (hashes.byteLength !== range.count * HASH_BYTES) {
    const expected = `expected ${range.count * HASH_BYTES} for ${range.count} blocks`;
    throw new RangeError(`hashes: ${hashes.byteLength} bytes, ${expected}`);
  }
  return frame("hashes", ids, 0, [hashRange(range), hashes]);
}

function hashRange({ disk, blockBytes, offset, count }: HashRange): Uint8Array {
  if (!isBlockSize(blockBytes) || count < 1 || count > MAX_HASHES_PER_MESSAGE)
    throw new RangeError(`hashes of ${count} blocks of ${blockBytes} bytes cannot be asked for`);
  const bytes = Buffer.alloc(HASH_RANGE_BYTES);
  bytes.writeUInt16BE(disk, 0);
  bytes.writeUInt32BE(blockBytes, 4);
  bytes.writeBigUInt64BE(BigInt(offset), 8);
  bytes.writeUInt32BE(count, 16);
  return bytes;
}

function isBlockSize(bytes: number): boolean {
  const inside = bytes >= MIN_HASH_BLOCK_BYTES && bytes <= MAX_HASH_BLOCK_BYTES;
  return inside && (bytes & (bytes - 1)) === 0;
}

/** @param what names the message in errors. @throws ProtocolError */
export function decodeHashRange(reader: Reader, what: string): HashRange {
  const wrong = (field: string, value: unknown, expected: string) =>
    new ProtocolError("bad-payload", `${what} ${field}`, value, expected);
  const disk = reader.u16("disk");
  const reserved = reader.u16("reserved");
  if (reserved !== 0) throw wrong("reserved", reserved, "0");
  const blockBytes = reader.u32("block size");
  if (!isBlockSize(blockBytes))
    throw wrong("block size", blockBytes, `a power of two from ${MIN_HASH_BLOCK_BYTES} to 1 MiB`);
  const offset = reader.u64("offset");
  const count = reader.u32("count");
  if (count < 1 || count > MAX_HASHES_PER_MESSAGE)
    throw wrong("count", count, `1..${MAX_HASHES_PER_MESSAGE}`);
  return { disk, blockBytes, offset, count };
}

export function decodeHashes(payload: Uint8Array): { range: HashRange; hashes: Uint8Array } {
  const reader = new Reader("hashes", payload);
  const range = decodeHashRange(reader, "hashes");
  const hashes = reader.bytes("contents", range.count * HASH_BYTES);
  reader.end();
  return { range, hashes };
}

/** Where there is disk, by HELLO. An entry outside would be a write outside the backup's image. */
export class DiskBounds {
  readonly #bytesOfDisk: ReadonlyMap<number, number>;

  constructor(disks: readonly DiskSize[]) {
    this.#bytesOfDisk = new Map(disks.map(({ id, bytes }) => [id, bytes]));
  }

  /** @throws ProtocolError */
  check(entries: readonly DiskEntry[]): void {
    entries.forEach(({ disk, offset, length }, index) => {
      this.#inside(`disk entry ${index}`, disk, offset, length);
    });
  }

  /** The last block may end beyond the disk, but not begin there. @throws ProtocolError */
  checkRange({ disk, blockBytes, offset, count }: HashRange): void {
    this.#inside("hash-ask", disk, offset, (count - 1) * blockBytes + 1);
  }

  #inside(what: string, disk: number, offset: number, length: number): void {
    const bytes = this.#bytesOfDisk.get(disk);
    if (bytes === undefined) throw new ProtocolError("bad-disk", `${what} disk`, disk, "a disk of HELLO");
    if (offset + length > bytes) {
      const expected = `${length} bytes to end within the ${bytes} of disk ${disk}`;
      throw new ProtocolError("bad-disk", `${what} offset`, offset, expected);
    }
  }
}
