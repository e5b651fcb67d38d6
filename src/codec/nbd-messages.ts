/**
 * Requests and replies: the messages after the handshake, as they are written. (They are read in
 * nbd-server.ts and nbd-replies.ts.)
 */
import {
  CHUNK,
  CHUNK_DONE,
  CHUNK_HEADER_BYTES,
  errnoNumber,
  LONGEST_STRING,
  MAGIC,
  type NbdErrno,
  type NbdExtent,
  REQUEST_BYTES,
  SIMPLE_REPLY_BYTES,
} from "./nbd.ts";

const U32 = 2 ** 32;

/** The header of a request; a write's data follows it. `cookie` and `offset` are below 2^53. */
export function encodeRequest(
  command: number,
  flags: number,
  cookie: number,
  offset: number,
  length: number,
): Buffer {
  const bytes = Buffer.allocUnsafe(REQUEST_BYTES);
  bytes.writeUInt32BE(MAGIC.request, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(command, 6);
  bytes.writeUInt32BE(Math.floor(cookie / U32), 8);
  bytes.writeUInt32BE(cookie % U32, 12);
  bytes.writeUInt32BE(Math.floor(offset / U32), 16);
  bytes.writeUInt32BE(offset % U32, 20);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

/** A reply without structure; data of a read follows it. */
export function encodeSimpleReply(cookie: bigint, error?: NbdErrno): Buffer {
  const bytes = Buffer.allocUnsafe(SIMPLE_REPLY_BYTES);
  bytes.writeUInt32BE(MAGIC.simpleReply, 0);
  bytes.writeUInt32BE(error === undefined ? 0 : errnoNumber(error), 4);
  bytes.writeBigUInt64BE(cookie, 8);
  return bytes;
}

/** The one chunk of a read's reply, but for its data, which follow. */
export function encodeDataHeader(cookie: bigint, offset: number, length: number): Buffer {
  const bytes = chunk(CHUNK.data, cookie, 8, length);
  bytes.writeBigUInt64BE(BigInt(offset), CHUNK_HEADER_BYTES);
  return bytes;
}

/** The last chunk of a reply, saying that the request failed. */
export function encodeErrorChunk(cookie: bigint, error: NbdErrno, message: string): Buffer {
  const text = Buffer.from(message).subarray(0, LONGEST_STRING);
  const bytes = chunk(CHUNK.error, cookie, 6 + text.length);
  bytes.writeUInt32BE(errnoNumber(error), CHUNK_HEADER_BYTES);
  bytes.writeUInt16BE(text.length, CHUNK_HEADER_BYTES + 4);
  bytes.set(text, CHUNK_HEADER_BYTES + 6);
  return bytes;
}

/** The one chunk of a block status's reply. */
export function encodeStatusChunk(cookie: bigint, contextId: number, extents: readonly NbdExtent[]): Buffer {
  const bytes = chunk(CHUNK.blockStatus, cookie, 4 + 8 * extents.length);
  bytes.writeUInt32BE(contextId, CHUNK_HEADER_BYTES);
  let at = CHUNK_HEADER_BYTES + 4;
  for (const { length, flags } of extents) {
    bytes.writeUInt32BE(length, at);
    bytes.writeUInt32BE(flags, at + 4);
    at += 8;
  }
  return bytes;
}

/** A last chunk with `bytes` of body to be filled in, and `more` to be sent behind it. */
function chunk(type: number, cookie: bigint, bytes: number, more = 0): Buffer {
  const buffer = Buffer.allocUnsafe(CHUNK_HEADER_BYTES + bytes);
  buffer.writeUInt32BE(MAGIC.structuredReply, 0);
  buffer.writeUInt16BE(CHUNK_DONE, 4);
  buffer.writeUInt16BE(type, 6);
  buffer.writeBigUInt64BE(cookie, 8);
  buffer.writeUInt32BE(bytes + more, 16);
  return buffer;
}
