/** Options and their replies: the messages of the handshake, as either side writes and reads them. */
import { LONGEST_OPTION_DATA, MAGIC, OPTION, readString } from "./nbd.ts";

const OPTION_NAMES = new Map<number, string>(Object.entries(OPTION).map(([name, code]) => [code, name]));

/** For sentences: "go", "option 77". */
export function optionName(option: number): string {
  return OPTION_NAMES.get(option) ?? `option ${option}`;
}

export const OPTION_HEADER_BYTES = 16;
export const OPTION_REPLY_HEADER_BYTES = 20;

export function encodeOption(option: number, data: Uint8Array = new Uint8Array(0)): Buffer {
  if (data.length > LONGEST_OPTION_DATA)
    throw new RangeError(
      `${optionName(option)}: ${data.length} bytes of data; ${LONGEST_OPTION_DATA} is the most`,
    );
  const bytes = Buffer.alloc(OPTION_HEADER_BYTES + data.length);
  bytes.writeBigUInt64BE(MAGIC.option, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(data.length, 12);
  bytes.set(data, OPTION_HEADER_BYTES);
  return bytes;
}

export function encodeOptionReply(
  option: number,
  type: number,
  data: Uint8Array | string = new Uint8Array(0),
): Buffer {
  const body = typeof data === "string" ? Buffer.from(data) : data;
  const bytes = Buffer.alloc(OPTION_REPLY_HEADER_BYTES + body.length);
  bytes.writeBigUInt64BE(MAGIC.optionReply, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(body.length, 16);
  bytes.set(body, OPTION_REPLY_HEADER_BYTES);
  return bytes;
}

/** Data of the options info and go. */
export interface GoData {
  readonly exportName: string;
  readonly infos: readonly number[];
}

export function encodeGoData({ exportName, infos }: GoData): Buffer {
  const name = Buffer.from(exportName);
  const bytes = Buffer.alloc(4 + name.length + 2 + 2 * infos.length);
  bytes.writeUInt32BE(name.length, 0);
  bytes.set(name, 4);
  bytes.writeUInt16BE(infos.length, 4 + name.length);
  infos.forEach((info, i) => {
    bytes.writeUInt16BE(info, 4 + name.length + 2 + 2 * i);
  });
  return bytes;
}

/** Undefined if the data is not of this form. */
export function parseGoData(bytes: Buffer): GoData | undefined {
  const name = prefixedString(bytes, 0);
  if (name === undefined || bytes.length < name.end + 2) return undefined;
  const count = bytes.readUInt16BE(name.end);
  if (bytes.length !== name.end + 2 + 2 * count) return undefined;
  const infos = Array.from({ length: count }, (_, i) => bytes.readUInt16BE(name.end + 2 + 2 * i));
  return { exportName: name.string, infos };
}

/** Data of the options listMetaContext and setMetaContext. */
export interface MetaContextData {
  readonly exportName: string;
  readonly queries: readonly string[];
}

export function encodeMetaContextData({ exportName, queries }: MetaContextData): Buffer {
  return Buffer.concat([prefixed(exportName), uint32(queries.length), ...queries.map(prefixed)]);
}

/** Undefined if the data is not of this form. */
export function parseMetaContextData(bytes: Buffer): MetaContextData | undefined {
  const name = prefixedString(bytes, 0);
  if (name === undefined || bytes.length < name.end + 4) return undefined;
  const count = bytes.readUInt32BE(name.end);
  const queries: string[] = [];
  let at = name.end + 4;
  // However large the count: each query has at least four bytes of its own, and these end.
  for (let i = 0; i < count; i++) {
    const query = prefixedString(bytes, at);
    if (query === undefined) return undefined;
    queries.push(query.string);
    at = query.end;
  }
  return at === bytes.length ? { exportName: name.string, queries } : undefined;
}

export function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** A string with its length in front of it. */
export function prefixed(string: string): Buffer {
  const bytes = Buffer.from(string);
  return Buffer.concat([uint32(bytes.length), bytes]);
}

function prefixedString(bytes: Buffer, at: number): { string: string; end: number } | undefined {
  if (bytes.length < at + 4) return undefined;
  const end = at + 4 + bytes.readUInt32BE(at);
  if (end > bytes.length) return undefined;
  const string = readString(bytes.subarray(at + 4, end));
  return string === undefined ? undefined : { string, end };
}
