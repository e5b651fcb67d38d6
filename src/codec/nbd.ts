/**
 * Names and numbers of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md). What we use of it:
 * docs/specs/nbd.md.
 */

export const MAGIC = {
  server: 0x4e42444d41474943n,
  option: 0x49484156454f5054n,
  optionReply: 0x0003e889045565a9n,
  request: 0x25609513,
  simpleReply: 0x67446698,
  structuredReply: 0x668e33ef,
} as const;

/** Flags of both greetings: the server's 16 bits, the client's 32. */
export const HANDSHAKE_FIXED_NEWSTYLE = 1;
export const HANDSHAKE_NO_ZEROES = 2;

export const OPTION = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

const ERROR_BIT = 0x80000000;
export const REPLY = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: ERROR_BIT + 1,
  policy: ERROR_BIT + 2,
  invalid: ERROR_BIT + 3,
  unknown: ERROR_BIT + 6,
  tooBig: ERROR_BIT + 9,
} as const;

export const INFO = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** What an export can do. */
export const TRANSMISSION = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  flush: 1 << 2,
  fua: 1 << 3,
  trim: 1 << 5,
  zero: 1 << 6,
  unfragmented: 1 << 7,
  multipleConnections: 1 << 8,
  cache: 1 << 10,
  fastZero: 1 << 11,
} as const;

export const COMMAND = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  zero: 6,
  blockStatus: 7,
} as const;

export const COMMAND_FLAG = { fua: 1, noHole: 2, unfragmented: 4, oneExtent: 8, fast: 16 } as const;

/** Types of a structured reply's chunk. Bit 15 says that it is an error. */
export const CHUNK = { none: 0, data: 1, hole: 2, blockStatus: 5, error: 0x8001, errorAt: 0x8002 } as const;
export const CHUNK_ERROR_BIT = 0x8000;
export const CHUNK_DONE = 1;

export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const CHUNK_HEADER_BYTES = 20;

/** Names of exports and contexts, and messages, are no longer than this. */
export const LONGEST_STRING = 4096;
/** The data of an option or of its reply. A name, some contexts and the counts between them fit. */
export const LONGEST_OPTION_DATA = 16 << 10;
/** Everyone must stand a read or write this long, and nobody a longer one. */
export const LONGEST_PAYLOAD = 32 << 20;
/** Extents in one chunk. */
export const MOST_EXTENTS = 1 << 20;

export const BASE_ALLOCATION = "base:allocation";

const ERRNO = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;
export type NbdErrno = keyof typeof ERRNO;

export function errnoNumber(errno: NbdErrno): number {
  return ERRNO[errno];
}

/** An error nobody has agreed on counts as EINVAL. */
export function errnoName(code: number): NbdErrno {
  return NAME_OF_ERRNO.get(code) ?? "EINVAL";
}

const NAME_OF_ERRNO: ReadonlyMap<number, NbdErrno> = new Map(
  (Object.keys(ERRNO) as NbdErrno[]).map((name) => [ERRNO[name], name]),
);

/**
 * A run of bytes and what a metadata context says of it. base:allocation: 1 hole, 2 reads as zero.
 * qemu:dirty-bitmap: 1 dirty.
 */
export interface NbdExtent {
  readonly length: number;
  readonly flags: number;
}

/** The peer does not keep to the protocol. `message` is a sentence without the peer's name. */
export class NbdProtocolError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "NbdProtocolError";
  }
}

const text = new TextDecoder("utf-8", { fatal: true });

/** A string as NBD has them: UTF-8 without NUL, of at most 4096 bytes. Undefined if it is none. */
export function readString(bytes: Uint8Array): string | undefined {
  if (bytes.length > LONGEST_STRING || bytes.includes(0)) return undefined;
  try {
    return text.decode(bytes);
  } catch {
    return undefined;
  }
}

/** A peer's string, for a sentence: quoted and cut. */
export function quoted(string: string): string {
  return JSON.stringify(string.length <= 64 ? string : `${string.slice(0, 64)}…`);
}
