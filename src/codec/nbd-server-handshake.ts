/**
 * The handshake as the server hears it: fixed newstyle, one option after the other, until the client enters
 * an export or leaves.
 */
import {
  BASE_ALLOCATION,
  HANDSHAKE_FIXED_NEWSTYLE,
  HANDSHAKE_NO_ZEROES,
  INFO,
  LONGEST_OPTION_DATA,
  LONGEST_STRING,
  MAGIC,
  OPTION,
  quoted,
  REPLY,
  readString,
} from "./nbd.ts";
import type { Script } from "./nbd-dialogue.ts";
import { type NbdExport, transmissionFlags } from "./nbd-export.ts";
import {
  encodeOptionReply,
  OPTION_HEADER_BYTES,
  optionName,
  parseGoData,
  parseMetaContextData,
  prefixed,
  uint16,
  uint32,
} from "./nbd-options.ts";

/** How it ends: in an export, or not. `message` is a sentence. */
export type HandshakeEnd =
  | {
      readonly kind: "entered";
      readonly export: NbdExport;
      readonly structured: boolean;
      /** Block status was agreed on. */
      readonly blockStatus: boolean;
    }
  | { readonly kind: "left"; readonly clean: boolean; readonly message: string };

/** The number that stands for base:allocation, the one context there is. */
export const BASE_ALLOCATION_ID = 1;
/** A client that still haggles after this many will never come to a point. */
const MOST_OPTIONS = 1024;
const SKIP_BYTES = 4096;

interface Agreed {
  noZeroes: boolean;
  structured: boolean;
  /** The export that block status was agreed on for. */
  contextOf: NbdExport | undefined;
}

export function* serverHandshake(
  exports: readonly NbdExport[],
  send: (bytes: Uint8Array) => void,
): Script<HandshakeEnd> {
  send(greeting());
  const clientFlags = (yield 4).readUInt32BE();
  if ((clientFlags & ~(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES)) !== 0)
    return broken(`greeted with flags 0x${clientFlags.toString(16)}, of which only 0x3 are known`);
  const agreed: Agreed = {
    noZeroes: (clientFlags & HANDSHAKE_NO_ZEROES) !== 0,
    structured: false,
    contextOf: undefined,
  };
  const enter = (one: NbdExport): HandshakeEnd => ({
    kind: "entered",
    export: one,
    structured: agreed.structured,
    blockStatus: agreed.contextOf === one,
  });
  for (let count = 0; count < MOST_OPTIONS; count++) {
    const header = yield OPTION_HEADER_BYTES;
    if (header.readBigUInt64BE() !== MAGIC.option) return broken("sent something that is no option");
    const option = header.readUInt32BE(8);
    const length = header.readUInt32BE(12);
    if (option === OPTION.exportName && length > LONGEST_STRING)
      return broken(`asked for an export with a name of ${length} bytes`);
    if (length > LONGEST_OPTION_DATA) {
      yield* skip(length);
      const type = KNOWN.has(option) ? REPLY.tooBig : REPLY.unsupported;
      send(
        encodeOptionReply(option, type, `${length} bytes are too many; ${LONGEST_OPTION_DATA} is the most`),
      );
      continue;
    }
    const data = yield length;
    if (option === OPTION.exportName) {
      const name = readString(data);
      const one = exports.find((candidate) => candidate.name === name);
      // This option has no reply that says no.
      if (one === undefined) return broken(`asked for the export ${quoted(name ?? "")}, which is not there`);
      send(exportNameReply(one, agreed));
      return enter(one);
    }
    if (option === OPTION.abort) {
      send(encodeOptionReply(option, REPLY.ack));
      return { kind: "left", clean: true, message: "the NBD client left before it had chosen an export" };
    }
    const entered = answerOption(option, data, exports, agreed, send);
    if (entered !== undefined) return enter(entered);
  }
  return broken(`sent ${MOST_OPTIONS} options and has not chosen an export`);
}

const KNOWN = new Set<number>(Object.values(OPTION).filter((option) => option !== OPTION.startTls));

function broken(what: string): HandshakeEnd {
  return { kind: "left", clean: false, message: `the NBD client ${what}` };
}

function* skip(length: number): Script<void> {
  for (let left = length; left > 0; left -= SKIP_BYTES) yield Math.min(left, SKIP_BYTES);
}

function greeting(): Buffer {
  const bytes = Buffer.alloc(18);
  bytes.writeBigUInt64BE(MAGIC.server, 0);
  bytes.writeBigUInt64BE(MAGIC.option, 8);
  bytes.writeUInt16BE(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES, 16);
  return bytes;
}

/** Answers an option that has replies. Returns the export if the client has entered one. */
function answerOption(
  option: number,
  data: Buffer,
  exports: readonly NbdExport[],
  agreed: Agreed,
  send: (bytes: Uint8Array) => void,
): NbdExport | undefined {
  const reply = (type: number, body?: Uint8Array | string) => send(encodeOptionReply(option, type, body));
  const invalid = (why: string) => reply(REPLY.invalid, `${optionName(option)}: ${why}`);
  switch (option) {
    case OPTION.list: {
      if (data.length > 0) return void invalid("has no data");
      for (const { name, description = "" } of exports)
        reply(REPLY.server, Buffer.concat([prefixed(name), Buffer.from(description)]));
      return void reply(REPLY.ack);
    }
    case OPTION.structuredReply: {
      if (data.length > 0) return void invalid("has no data");
      agreed.structured = true;
      return void reply(REPLY.ack);
    }
    case OPTION.info:
    case OPTION.go: {
      const asked = parseGoData(data);
      if (asked === undefined) return void invalid("its data is malformed");
      const one = exports.find(({ name }) => name === asked.exportName);
      if (one === undefined)
        return void reply(REPLY.unknown, `there is no export ${quoted(asked.exportName)}`);
      for (const info of infosOf(one, asked.infos, agreed)) reply(REPLY.info, info);
      reply(REPLY.ack);
      return option === OPTION.go ? one : undefined;
    }
    case OPTION.listMetaContext:
    case OPTION.setMetaContext: {
      const set = option === OPTION.setMetaContext;
      if (set) agreed.contextOf = undefined;
      if (!agreed.structured) return void invalid("structured replies come first");
      const asked = parseMetaContextData(data);
      if (asked === undefined) return void invalid("its data is malformed");
      const one = exports.find(({ name }) => name === asked.exportName);
      if (one === undefined)
        return void reply(REPLY.unknown, `there is no export ${quoted(asked.exportName)}`);
      const matches = set
        ? asked.queries.includes(BASE_ALLOCATION)
        : asked.queries.length === 0 || asked.queries.some((q) => q === BASE_ALLOCATION || q === "base:");
      if (one.blockStatus && matches) {
        if (set) agreed.contextOf = one;
        reply(
          REPLY.metaContext,
          Buffer.concat([uint32(set ? BASE_ALLOCATION_ID : 0), Buffer.from(BASE_ALLOCATION)]),
        );
      }
      return void reply(REPLY.ack);
    }
    // startTls is among these: there is no TLS here, a unix socket needs none.
    default:
      return void reply(REPLY.unsupported, `${optionName(option)} is not supported`);
  }
}

/** The bodies of the info replies: the export itself, always, and what else was asked for. */
function infosOf(one: NbdExport, asked: readonly number[], { structured }: Agreed): Buffer[] {
  const infos = [Buffer.concat([uint16(INFO.export), sizeAndFlags(one, structured)])];
  if (asked.includes(INFO.name)) infos.push(Buffer.concat([uint16(INFO.name), Buffer.from(one.name)]));
  if (asked.includes(INFO.description) && one.description !== undefined)
    infos.push(Buffer.concat([uint16(INFO.description), Buffer.from(one.description)]));
  if (asked.includes(INFO.blockSize)) {
    const sizes = [one.minimumBlock, one.preferredBlock, one.maximumBlock].map(uint32);
    infos.push(Buffer.concat([uint16(INFO.blockSize), ...sizes]));
  }
  return infos;
}

function exportNameReply(one: NbdExport, { structured, noZeroes }: Agreed): Buffer {
  return Buffer.concat([sizeAndFlags(one, structured), Buffer.alloc(noZeroes ? 0 : 124)]);
}

function sizeAndFlags(one: NbdExport, structured: boolean): Buffer {
  const bytes = Buffer.alloc(10);
  bytes.writeBigUInt64BE(BigInt(one.bytes), 0);
  bytes.writeUInt16BE(transmissionFlags(one, structured), 8);
  return bytes;
}
