/** The handshake as the client hears it: structured replies, metadata contexts, and into the export. */
import {
  HANDSHAKE_FIXED_NEWSTYLE,
  HANDSHAKE_NO_ZEROES,
  INFO,
  LONGEST_OPTION_DATA,
  LONGEST_PAYLOAD,
  MAGIC,
  NbdProtocolError,
  OPTION,
  quoted,
  REPLY,
  readString,
} from "./nbd.ts";
import type { Script } from "./nbd-dialogue.ts";
import {
  encodeGoData,
  encodeMetaContextData,
  encodeOption,
  OPTION_REPLY_HEADER_BYTES,
  optionName,
  uint32,
} from "./nbd-options.ts";

/** What the server says of the export. Sizes in bytes. */
export interface NbdOpened {
  readonly bytes: number;
  /** Bits of `TRANSMISSION`. */
  readonly flags: number;
  readonly minimumBlock: number;
  readonly preferredBlock: number;
  /** The longest read or write: a multiple of the minimum, at most 32 MiB. */
  readonly maximumBlock: number;
  readonly structured: boolean;
  /** Numbers of the contexts that were asked for, by name. */
  readonly contexts: ReadonlyMap<string, number>;
}

/** The server speaks NBD and says no. `message` is a sentence. */
export class NbdRefusal extends Error {
  /** The export is not there (yet). */
  readonly unknownExport: boolean;

  constructor(message: string, unknownExport: boolean) {
    super(message);
    this.name = "NbdRefusal";
    this.unknownExport = unknownExport;
  }
}

interface Asked {
  readonly exportName: string;
  readonly contexts: readonly string[];
  readonly send: (bytes: Uint8Array) => void;
}

/** Throws NbdProtocolError or NbdRefusal. */
export function* clientHandshake({ exportName, contexts, send }: Asked): Script<NbdOpened> {
  const greeting = yield 18;
  if (greeting.readBigUInt64BE(0) !== MAGIC.server)
    throw new NbdProtocolError("what answers there is no NBD server");
  if (greeting.readBigUInt64BE(8) !== MAGIC.option)
    throw new NbdProtocolError("the server knows only the oldest handshake, which is not supported");
  const serverFlags = greeting.readUInt16BE(16);
  if ((serverFlags & HANDSHAKE_FIXED_NEWSTYLE) === 0)
    throw new NbdProtocolError("the server does not know the fixed newstyle handshake");
  send(uint32(serverFlags & (HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES)));

  send(encodeOption(OPTION.structuredReply));
  const structured = (yield* reply(OPTION.structuredReply)).type === REPLY.ack;
  const numbers = new Map<string, number>();
  if (contexts.length > 0) {
    send(encodeOption(OPTION.setMetaContext, encodeMetaContextData({ exportName, queries: contexts })));
    yield* contextNumbers(contexts, numbers, send);
    const missing = contexts.find((context) => !numbers.has(context));
    if (missing !== undefined) throw refusal(send, `it has no metadata context ${quoted(missing)}`);
  }

  send(encodeOption(OPTION.go, encodeGoData({ exportName, infos: [INFO.blockSize] })));
  const { size, blocks } = yield* infosOfGo(send);
  return { ...size, ...blocks, structured, contexts: numbers };
}

/** One reply to an option. `data` is good until the next yield. */
function* reply(option: number): Script<{ readonly type: number; readonly data: Buffer }> {
  const header = yield OPTION_REPLY_HEADER_BYTES;
  const answered = header.readUInt32BE(8);
  const type = header.readUInt32BE(12);
  const length = header.readUInt32BE(16);
  if (header.readBigUInt64BE(0) !== MAGIC.optionReply)
    throw new NbdProtocolError(`the reply to ${optionName(option)} is no reply`);
  if (answered !== option)
    throw new NbdProtocolError(`${optionName(answered)} was answered in place of ${optionName(option)}`);
  if (length > LONGEST_OPTION_DATA)
    throw new NbdProtocolError(
      `the reply to ${optionName(option)} has ${length} bytes; ${LONGEST_OPTION_DATA} is the most`,
    );
  return { type, data: yield length };
}

/** A client that goes says so, unless the server has lost its way. */
function refusal(send: Asked["send"], why: string, unknownExport = false): NbdRefusal {
  send(encodeOption(OPTION.abort));
  return new NbdRefusal(why, unknownExport);
}

function refused(send: Asked["send"], option: number, type: number, data: Buffer): NbdRefusal {
  const said = readString(data) || `reply 0x${type.toString(16)}`;
  return refusal(send, `it refuses ${optionName(option)}: ${said}`, type === REPLY.unknown);
}

function isError(type: number): boolean {
  return type >= 0x80000000;
}

function* contextNumbers(
  asked: readonly string[],
  numbers: Map<string, number>,
  send: Asked["send"],
): Script<void> {
  for (;;) {
    const { type, data } = yield* reply(OPTION.setMetaContext);
    if (type === REPLY.ack) return;
    if (isError(type)) throw refused(send, OPTION.setMetaContext, type, data);
    const name = data.length > 4 ? readString(data.subarray(4)) : undefined;
    if (type !== REPLY.metaContext || name === undefined)
      throw new NbdProtocolError("a metadata context in the server's reply is malformed");
    // What was not asked for, or twice, would let the list grow without end.
    if (!asked.includes(name) || numbers.has(name))
      throw new NbdProtocolError(`the server chose the metadata context ${quoted(name)} by itself`);
    numbers.set(name, data.readUInt32BE());
  }
}

type Sizes = Pick<NbdOpened, "minimumBlock" | "preferredBlock" | "maximumBlock">;
/** Those of a server that does not speak of them. */
const DEFAULT_SIZES: Sizes = { minimumBlock: 1, preferredBlock: 4096, maximumBlock: LONGEST_PAYLOAD };

function* infosOfGo(
  send: Asked["send"],
): Script<{ readonly size: Pick<NbdOpened, "bytes" | "flags">; readonly blocks: Sizes }> {
  let size: Pick<NbdOpened, "bytes" | "flags"> | undefined;
  let blocks = DEFAULT_SIZES;
  for (;;) {
    const { type, data } = yield* reply(OPTION.go);
    if (type === REPLY.ack) {
      if (size === undefined)
        throw new NbdProtocolError("the server let us in without saying how large the export is");
      return { size, blocks };
    }
    if (isError(type)) throw refused(send, OPTION.go, type, data);
    if (type !== REPLY.info || data.length < 2) throw new NbdProtocolError("an info reply is malformed");
    const info = data.readUInt16BE();
    if (info === INFO.export) size = readSize(data);
    else if (info === INFO.blockSize) blocks = readBlockSizes(data);
  }
}

function readSize(data: Buffer): Pick<NbdOpened, "bytes" | "flags"> {
  if (data.length !== 12) throw new NbdProtocolError("what the server says of the export is malformed");
  const bytes = Number(data.readBigUInt64BE(2));
  if (!Number.isSafeInteger(bytes)) throw new NbdProtocolError(`an export of ${bytes} bytes is too large`);
  return { bytes, flags: data.readUInt16BE(10) };
}

function readBlockSizes(data: Buffer): Sizes {
  if (data.length !== 14) throw new NbdProtocolError("the block sizes of the export are malformed");
  const [minimumBlock, preferredBlock, most] = [2, 6, 10].map((at) => data.readUInt32BE(at)) as [
    number,
    number,
    number,
  ];
  const maximumBlock = Math.min(most, LONGEST_PAYLOAD);
  const powers = [minimumBlock, preferredBlock].every((size) => size > 0 && (size & (size - 1)) === 0);
  if (!powers || minimumBlock > 65536 || preferredBlock < minimumBlock || maximumBlock < minimumBlock)
    throw new NbdProtocolError(
      `block sizes of ${minimumBlock}, ${preferredBlock} and ${most} bytes make no sense`,
    );
  return { minimumBlock, preferredBlock, maximumBlock: maximumBlock - (maximumBlock % minimumBlock) };
}
