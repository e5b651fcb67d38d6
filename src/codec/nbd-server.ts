/** One connection to an NBD server, seen from the server: bytes in, requests out; answers in, bytes out. See docs/specs/nbd.md. */
import type { NbdErrno, NbdExtent } from "./nbd.ts";

/** What a client may open. Sizes in bytes. */
export interface NbdExport {
  readonly name: string;
  /** For people. */
  readonly description?: string;
  /** A multiple of `minimumBlock`. */
  readonly bytes: number;
  readonly readOnly: boolean;
  /** A power of two: offsets and lengths of requests are multiples of it. 512 or 1. */
  readonly minimumBlock: number;
  readonly preferredBlock: number;
  /** The longest read or write, at most 32 MiB. */
  readonly maximumBlock: number;
  /** Block status (base:allocation) is offered. */
  readonly blockStatus?: boolean;
  /** The cache request is offered. */
  readonly cache?: boolean;
  /** Zeroing "only if faster than writing" is offered. */
  readonly fastZero?: boolean;
  /** Several connections see one another's writes. */
  readonly multipleConnections?: boolean;
}

/** A request that was checked: it lies within the export, is aligned, not empty (but for a flush), and allowed. */
export interface NbdRequest {
  readonly kind: "read" | "write" | "zero" | "trim" | "flush" | "cache" | "block-status";
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
  /** Answer only when what it wrote is on stable storage. */
  readonly fua: boolean;
  /** Of a zero: the space must stay allocated. */
  readonly noHole: boolean;
  /** Of a zero: answer ENOTSUP unless it is quicker than writing. */
  readonly fast: boolean;
  /** Of a block-status: answer with one extent, no longer than the request. */
  readonly oneExtent: boolean;
}

/** Why a session is over. `clean`: the client said goodbye. `message` is a sentence. */
export interface NbdEnd {
  readonly clean: boolean;
  readonly message: string;
}

export interface NbdServerOptions {
  readonly exports: readonly NbdExport[];
  /** Bytes for the client. They are the transport's from then on. */
  readonly send: (bytes: Uint8Array) => void;
  /**
   * A whole request; of a write, after all of its data was taken. Answer it now or later, in any order, with the `answer` functions.
   * `false`: not now; it is asked again with the next `push` (which may be an empty one).
   */
  readonly onRequest: (request: NbdRequest) => boolean | undefined | void;
  /**
   * A piece of a write's data, in order, as it came: `piece` is a view into the chunk that was pushed, good within the call.
   * Returns how many of its bytes were taken. Fewer than all: `push` stops, and goes on with the rest when it is pushed again.
   */
  readonly onWriteData: (request: NbdRequest, piece: Uint8Array, offsetInRequest: number) => number;
  /** Once, and no other handler after it. The transport is to be closed once what was sent has left. */
  readonly onEnd: (end: NbdEnd) => void;
}

export class NbdServerSession {
  constructor(_options: NbdServerOptions) {}

  /** The export that the client chose; undefined while it has not. */
  get export(): NbdExport | undefined {
    return undefined;
  }

  /** Requests that were handed out and not answered. */
  get outstanding(): number {
    return 0;
  }

  /** Sends the greeting. Once, before anything else. */
  start(): void {}

  /**
   * Bytes from the client. Returns how many were consumed: all, or fewer when a handler would take no more. Push the rest again, in front
   * of what comes after it, when the handler can go on (an empty rest too). Never throws on what the client sends: see `onEnd`.
   */
  push(_chunk: Uint8Array): number {
    return 0;
  }

  /** Anything but a successful read or block status. `message`, a sentence, reaches clients that know structured replies. */
  answer(_request: NbdRequest, _error?: NbdErrno, _message?: string): void {}

  /** `data` has the length of the request, and is the transport's from then on. */
  answerRead(_request: NbdRequest, _data: Uint8Array): void {}

  /** At least one extent, from the request's offset on; they may end before or (the last one) behind its end. */
  answerBlockStatus(_request: NbdRequest, _extents: readonly NbdExtent[]): void {}

  /** No handler is called any more; what is answered is dropped. For when the transport has gone. */
  stop(): void {}
}
