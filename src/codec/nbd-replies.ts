/**
 * The server's replies as the client hears them. What a read brings is put into memory that the client has
 * laid out; a server that sends what was not asked for is found out before anything is taken from it.
 */
import {
  CHUNK,
  CHUNK_DONE,
  CHUNK_ERROR_BIT,
  CHUNK_HEADER_BYTES,
  errnoName,
  LONGEST_OPTION_DATA,
  MAGIC,
  MOST_EXTENTS,
  type NbdErrno,
  type NbdExtent,
  NbdProtocolError,
  readString,
  SIMPLE_REPLY_BYTES,
} from "./nbd.ts";
import { Coverage } from "./nbd-coverage.ts";
import type { Script } from "./nbd-dialogue.ts";

/** Why a request failed, in the server's words, which may be none. */
export interface NbdFailure {
  readonly errno: NbdErrno;
  readonly said: string;
}

/** A request that the server has not answered. */
export class SentRequest {
  readonly offset: number;
  readonly length: number;
  /** Of a read: its bytes go here. */
  readonly target: Buffer | undefined;
  readonly covered: Coverage;
  /** Of a block status: what came, by the number of the context. Undefined for everything else. */
  readonly extents: Map<number, NbdExtent[]> | undefined;
  failure: NbdFailure | undefined;

  constructor(offset: number, length: number, wants?: Buffer | "extents") {
    this.offset = offset;
    this.length = length;
    this.target = wants === "extents" ? undefined : wants;
    this.extents = wants === "extents" ? new Map() : undefined;
    this.covered = new Coverage(offset);
  }
}

export interface ReplyContext {
  readonly structured: boolean;
  /** Numbers of the metadata contexts that were agreed on. */
  readonly contexts: ReadonlySet<number>;
  readonly requestOf: (cookie: number) => SentRequest | undefined;
  /** All of its reply was read; `failure` tells how it went. */
  readonly onDone: (cookie: number, request: SentRequest) => void;
}

/** Runs for ever. Throws NbdProtocolError. */
export function* replies(context: ReplyContext): Script<never> {
  for (;;) {
    const header = yield SIMPLE_REPLY_BYTES;
    const magic = header.readUInt32BE();
    const cookie = header.readUInt32BE(8) * 2 ** 32 + header.readUInt32BE(12);
    const request = context.requestOf(cookie);
    if (request === undefined) throw new NbdProtocolError("a reply belongs to no request");
    if (magic === MAGIC.simpleReply) {
      yield* simpleReply(request, header.readUInt32BE(4), context);
      context.onDone(cookie, request);
    } else if (magic === MAGIC.structuredReply && context.structured) {
      const flags = header.readUInt16BE(4);
      const type = header.readUInt16BE(6);
      const length = (yield CHUNK_HEADER_BYTES - SIMPLE_REPLY_BYTES).readUInt32BE();
      const done = (flags & CHUNK_DONE) !== 0;
      if (type === CHUNK.none && !done)
        throw new NbdProtocolError("an empty chunk is not the last of its reply");
      yield* chunk(type, length, request, context);
      if (done) {
        if (request.failure === undefined) checkWhole(request, context);
        context.onDone(cookie, request);
      }
    } else throw new NbdProtocolError("what should be a reply is none");
  }
}

function* simpleReply(request: SentRequest, error: number, { structured }: ReplyContext): Script<void> {
  const mustBeStructured = request.target !== undefined || (request.extents !== undefined && error === 0);
  if (structured && mustBeStructured)
    throw new NbdProtocolError("a request for content got a reply without structure");
  if (error !== 0) request.failure = { errno: errnoName(error), said: "" };
  else if (request.target !== undefined) yield request.target;
}

function* chunk(type: number, length: number, request: SentRequest, context: ReplyContext): Script<void> {
  if (type === CHUNK.none) expect(length === 0, "an empty chunk", length);
  else if (type === CHUNK.data && request.target !== undefined)
    yield* dataChunk(length, request, request.target);
  else if (type === CHUNK.hole && request.target !== undefined)
    yield* holeChunk(length, request, request.target);
  else if (type === CHUNK.blockStatus && request.extents !== undefined)
    yield* statusChunk(length, request, request.extents, context);
  else if ((type & CHUNK_ERROR_BIT) !== 0) yield* errorChunk(length, request);
  else throw new NbdProtocolError(`a chunk of type ${type} is no answer to what was asked`);
}

function* dataChunk(length: number, request: SentRequest, target: Buffer): Script<void> {
  expect(length > 8, "a chunk of data", length);
  const from = readOffset(yield 8) - request.offset;
  yield cover(request, target, from, length - 8);
}

function* holeChunk(length: number, request: SentRequest, target: Buffer): Script<void> {
  expect(length === 12, "a hole", length);
  const bytes = yield 12;
  cover(request, target, readOffset(bytes) - request.offset, bytes.readUInt32BE(8)).fill(0);
}

/** The part of a read's memory that a chunk may fill. `from` counts from its beginning. */
function cover(request: SentRequest, target: Buffer, from: number, length: number): Buffer {
  if (length === 0 || from < 0 || from > target.length - length)
    throw new NbdProtocolError(`${length} bytes were sent that lie outside of what was to be read`);
  if (!request.covered.add(request.offset + from, request.offset + from + length))
    throw new NbdProtocolError("bytes were sent twice, or in too many small parts");
  return target.subarray(from, from + length);
}

function* statusChunk(
  length: number,
  request: SentRequest,
  extents: Map<number, NbdExtent[]>,
  { contexts }: ReplyContext,
): Script<void> {
  const count = (length - 4) / 8;
  expect(Number.isInteger(count) && count >= 1 && count <= MOST_EXTENTS, "a block status", length);
  const id = (yield 4).readUInt32BE();
  if (!contexts.has(id) || extents.has(id))
    throw new NbdProtocolError("a block status belongs to no metadata context, or comes twice");
  const merged: { length: number; flags: number }[] = [];
  extents.set(id, merged);
  let left = request.length;
  for (let i = 0; i < count; i++) {
    const bytes = yield 8;
    const flags = bytes.readUInt32BE(4);
    const run = Math.min(bytes.readUInt32BE(), left);
    // Only the last one may reach behind the range, and none is empty.
    if (run === 0) throw new NbdProtocolError("a block status goes beyond what was asked, or says nothing");
    left -= run;
    const last = merged.at(-1);
    if (last?.flags === flags) last.length += run;
    else merged.push({ length: run, flags });
  }
}

function* errorChunk(length: number, request: SentRequest): Script<void> {
  expect(length >= 6 && length <= LONGEST_OPTION_DATA, "an error", length);
  const bytes = yield length;
  const code = bytes.readUInt32BE();
  const messageBytes = bytes.readUInt16BE(4);
  if (code === 0 || messageBytes > length - 6) throw new NbdProtocolError("an error chunk is malformed");
  request.failure ??= { errno: errnoName(code), said: readString(bytes.subarray(6, 6 + messageBytes)) ?? "" };
}

function checkWhole(request: SentRequest, { contexts }: ReplyContext): void {
  if (request.target !== undefined && !request.covered.reaches(request.offset + request.length))
    throw new NbdProtocolError("a read succeeded and did not bring all its bytes");
  if (request.extents !== undefined && request.extents.size !== contexts.size)
    throw new NbdProtocolError("a block status succeeded and left a metadata context out");
}

function readOffset(bytes: Buffer): number {
  return bytes.readUInt32BE(0) * 2 ** 32 + bytes.readUInt32BE(4);
}

function expect(right: boolean, what: string, length: number): void {
  if (!right) throw new NbdProtocolError(`${what} has an impossible length, ${length}`);
}
