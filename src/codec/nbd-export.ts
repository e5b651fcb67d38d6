/** What a server lets its clients open, and what may be done to it. */
import { LONGEST_PAYLOAD, LONGEST_STRING, quoted, TRANSMISSION } from "./nbd.ts";

/** Sizes in bytes. Reading, writing, zeroing and trimming are always offered. */
export interface NbdExport {
  readonly name: string;
  /** For people. */
  readonly description?: string;
  /** A multiple of `minimumBlock`. */
  readonly bytes: number;
  readonly readOnly: boolean;
  /** A power of two: offsets and lengths of requests are multiples of it. 512 or 1. */
  readonly minimumBlock: number;
  /** A power of two. */
  readonly preferredBlock: number;
  /** The longest read or write, at most 32 MiB. */
  readonly maximumBlock: number;
  /**
   * Flushing, and writes that are flushed at once, are not offered: every write is as safe as it will be when
   * it is answered.
   */
  readonly noFlush?: boolean;
  /** Block status (base:allocation) is offered. */
  readonly blockStatus?: boolean;
  /** The cache request is offered. */
  readonly cache?: boolean;
  /** Zeroing "only if it is quicker than writing" is offered. */
  readonly fastZero?: boolean;
  /** Several connections see one another's writes. */
  readonly multipleConnections?: boolean;
}

/** What a client is told that the export can do. */
export function transmissionFlags(one: NbdExport, structured: boolean): number {
  let flags = TRANSMISSION.hasFlags | TRANSMISSION.trim | TRANSMISSION.zero;
  if (!one.noFlush) flags |= TRANSMISSION.flush | TRANSMISSION.fua;
  if (one.readOnly) flags |= TRANSMISSION.readOnly;
  if (structured) flags |= TRANSMISSION.unfragmented;
  if (one.cache) flags |= TRANSMISSION.cache;
  if (one.fastZero) flags |= TRANSMISSION.fastZero;
  if (one.multipleConnections) flags |= TRANSMISSION.multipleConnections;
  return flags;
}

/** Throws RangeError if these exports cannot be served. */
export function checkExports(exports: readonly NbdExport[]): void {
  const names = new Set<string>();
  for (const one of exports) {
    const { name, description = "", bytes, minimumBlock, preferredBlock, maximumBlock } = one;
    const wrong = (what: string) => new RangeError(`NBD export ${quoted(name)}: ${what}`);
    if (names.has(name)) throw wrong("there are two of this name");
    names.add(name);
    for (const string of [name, description])
      if (Buffer.byteLength(string) > LONGEST_STRING || string.includes("\0"))
        throw wrong(`a name or description has at most ${LONGEST_STRING} bytes and no NUL`);
    if (!isPowerOfTwo(minimumBlock) || minimumBlock > 65536)
      throw wrong(`a minimum block of ${minimumBlock} is no power of two up to 65536`);
    if (!isPowerOfTwo(preferredBlock) || preferredBlock < Math.max(512, minimumBlock))
      throw wrong(`a preferred block of ${preferredBlock} is no power of two from 512 and the minimum on`);
    if (!(maximumBlock >= preferredBlock && maximumBlock <= LONGEST_PAYLOAD))
      throw wrong(
        `a maximum block of ${maximumBlock} is not between the preferred one and ${LONGEST_PAYLOAD}`,
      );
    if (!Number.isSafeInteger(bytes) || bytes < 0 || bytes % minimumBlock !== 0)
      throw wrong(`a size of ${bytes} is no multiple of the minimum block, ${minimumBlock}`);
  }
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(value) && value > 0 && 2 ** Math.round(Math.log2(value)) === value;
}
