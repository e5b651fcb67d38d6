/**
 * One connection to an NBD server, seen from the server: bytes in, requests out; answers in, bytes out. What
 * a write carries is handed over piece by piece as it comes and is not kept here.
 */
import {
  COMMAND,
  LONGEST_PAYLOAD,
  MAGIC,
  MOST_EXTENTS,
  type NbdErrno,
  type NbdExtent,
  REQUEST_BYTES,
} from "./nbd.ts";
import { Dialogue } from "./nbd-dialogue.ts";
import { checkExports, type NbdExport } from "./nbd-export.ts";
import { encodeDataHeader, encodeErrorChunk, encodeSimpleReply, encodeStatusChunk } from "./nbd-messages.ts";
import {
  type Agreement,
  checkRequest,
  type NbdRequest,
  type Refusal,
  readRequestHeader,
} from "./nbd-request.ts";
import { BASE_ALLOCATION_ID, type HandshakeEnd, serverHandshake } from "./nbd-server-handshake.ts";

export type { NbdExport } from "./nbd-export.ts";
export type { NbdRequest } from "./nbd-request.ts";

/** Requests that may wait for their answers at once. QEMU sends 16. */
export const MOST_OUTSTANDING = 256;

/** Why a session is over. `clean`: the client said goodbye. `message` is a sentence. */
export interface NbdEnd {
  readonly clean: boolean;
  readonly message: string;
}

export interface NbdServerOptions {
  /** Throws RangeError if they cannot be served. */
  readonly exports: readonly NbdExport[];
  /** Bytes for the client. They are the transport's from then on. */
  readonly send: (bytes: Uint8Array) => void;
  /**
   * A whole request; of a write, after all of its data was taken. Answer it now or later, in any order, with
   * the `answer` functions. Returns whether it was taken. False: not now; `push` stops, and it is asked again
   * with the next push.
   */
  readonly onRequest: (request: NbdRequest) => boolean;
  /**
   * A piece of a write's data, in order, as it came: `piece` is a view into the chunk that was pushed, good
   * within the call. Returns how many of its bytes were taken. Fewer than all: `push` stops, and goes on with
   * the rest when it is pushed again.
   */
  readonly onWriteData: (request: NbdRequest, piece: Uint8Array, offsetInRequest: number) => number;
  /** Once, and no other handler after it. Close the transport when what was sent has left. */
  readonly onEnd: (end: NbdEnd) => void;
}

/** A request whose header was read: of a write, data is to come. */
interface Coming {
  readonly request: NbdRequest | Refusal;
  readonly cookie: bigint;
  readonly dataBytes: number;
  read: number;
}

export class NbdServerSession {
  readonly #options: NbdServerOptions;
  readonly #head = Buffer.alloc(REQUEST_BYTES);
  readonly #outstanding = new Set<NbdRequest>();
  #headFilled = 0;
  #handshake: Dialogue<HandshakeEnd> | undefined;
  #agreement: Agreement | undefined;
  #coming: Coming | undefined;
  #started = false;
  #stalled = false;
  #leaving = false;
  #over = false;

  constructor(options: NbdServerOptions) {
    checkExports(options.exports);
    this.#options = options;
  }

  /** Sends the greeting. Once, before anything is pushed. */
  start(): void {
    this.#started = true;
    this.#handshake = new Dialogue(serverHandshake(this.#options.exports, this.#options.send));
  }

  /** The export that the client entered; undefined while it has not. */
  get export(): NbdExport | undefined {
    return this.#agreement?.export;
  }

  /**
   * The last `push` stopped early, or left a request that was not taken. Push again, an empty chunk if
   * nothing is left, when a handler can go on; also after an answer, if answers are not given within
   * `onRequest`: no more than `MOST_OUTSTANDING` are waited for.
   */
  get stalled(): boolean {
    return this.#stalled;
  }

  /**
   * Bytes from the client; not to be called from a handler. Returns how many were consumed: all, or fewer
   * when a handler would take no more. Push the rest again, in front of what comes after it. Never throws for
   * what the client sends: see `onEnd`.
   */
  push(chunk: Uint8Array): number {
    if (!this.#started) throw new RangeError("a session is started before anything is pushed");
    let at = 0;
    this.#stalled = false;
    while (!this.#over && !this.#leaving && !this.#stalled) {
      if (this.#handshake !== undefined) at += this.#haggle(this.#handshake, chunk.subarray(at));
      else if (this.#coming === undefined) {
        if (at === chunk.length) return at;
        if (this.#outstanding.size >= MOST_OUTSTANDING) this.#stalled = true;
        else at += this.#readHeader(chunk, at);
      } else if (this.#coming.read < this.#coming.dataBytes) {
        if (at === chunk.length) return at;
        at += this.#handData(this.#coming, chunk, at);
      } else this.#offer(this.#coming);
      if (this.#handshake !== undefined && at === chunk.length) return at;
    }
    return this.#stalled ? at : chunk.length;
  }

  /**
   * The answer to anything but a read or block status that succeeded. `message`, a sentence, reaches clients
   * that know structured replies.
   */
  answer(request: NbdRequest, error?: NbdErrno, message = ""): void {
    if (error === undefined && (request.kind === "read" || request.kind === "block-status"))
      throw new RangeError(`a ${request.kind} that succeeded is answered with what it asked for`);
    if (!this.#settle(request)) return;
    this.#sendAnswer(request.cookie, error, message);
    this.#leaveIfDone();
  }

  /** `data` is as long as the request, and the transport's from then on. */
  answerRead(request: NbdRequest, data: Uint8Array): void {
    if (request.kind !== "read" || data.length !== request.length)
      throw new RangeError(`${data.length} bytes answer a ${request.kind} of ${request.length}`);
    if (!this.#settle(request)) return;
    const { send } = this.#options;
    if (this.#agreement!.structured) send(encodeDataHeader(request.cookie, request.offset, data.length));
    else send(encodeSimpleReply(request.cookie));
    send(data);
    this.#leaveIfDone();
  }

  /**
   * One extent or more, from the request's offset on, none empty; only the last may end behind the request's
   * end.
   */
  answerBlockStatus(request: NbdRequest, extents: readonly NbdExtent[]): void {
    if (request.kind !== "block-status" || extents.length === 0 || extents.length > MOST_EXTENTS)
      throw new RangeError(`${extents.length} extents answer a ${request.kind}`);
    if (!this.#settle(request)) return;
    this.#options.send(encodeStatusChunk(request.cookie, BASE_ALLOCATION_ID, extents));
    this.#leaveIfDone();
  }

  /** No handler is called any more, and answers are dropped. For when the transport is gone. */
  stop(): void {
    this.#over = true;
    this.#handshake = undefined;
    this.#outstanding.clear();
  }

  #haggle(handshake: Dialogue<HandshakeEnd>, bytes: Uint8Array): number {
    const read = handshake.push(bytes);
    const end = handshake.result;
    if (end === undefined) return read;
    this.#handshake = undefined;
    if (end.kind === "entered") this.#agreement = end;
    else this.#end(end.clean, end.message);
    return read;
  }

  #readHeader(chunk: Uint8Array, at: number): number {
    const end = Math.min(chunk.length, at + REQUEST_BYTES - this.#headFilled);
    this.#head.set(chunk.subarray(at, end), this.#headFilled);
    this.#headFilled += end - at;
    if (this.#headFilled === REQUEST_BYTES) {
      this.#headFilled = 0;
      this.#begin();
    }
    return end - at;
  }

  #begin(): void {
    if (this.#head.readUInt32BE() !== MAGIC.request) {
      this.#end(false, "the NBD client sent something that is no request");
      return;
    }
    const header = readRequestHeader(this.#head);
    if (header.command === COMMAND.disconnect) {
      this.#leaving = true;
      this.#leaveIfDone();
      return;
    }
    const isWrite = header.command === COMMAND.write;
    if (isWrite && header.length > LONGEST_PAYLOAD) {
      const message = `the NBD client wants to write ${header.length} bytes at once; ${LONGEST_PAYLOAD} is the most`;
      this.#end(false, message);
      return;
    }
    const request = checkRequest(header, this.#agreement!);
    this.#coming = { request, cookie: header.cookie, dataBytes: isWrite ? header.length : 0, read: 0 };
  }

  #handData(coming: Coming, chunk: Uint8Array, at: number): number {
    const { request, dataBytes, read } = coming;
    const piece = chunk.subarray(at, at + dataBytes - read);
    const taken = "error" in request ? piece.length : this.#options.onWriteData(request, piece, read);
    if (!(Number.isInteger(taken) && taken >= 0 && taken <= piece.length))
      throw new RangeError(`onWriteData says that it took ${taken} of ${piece.length} bytes`);
    coming.read += taken;
    if (taken < piece.length) this.#stalled = true;
    return taken;
  }

  #offer({ request, cookie }: Coming): void {
    if ("error" in request) {
      this.#coming = undefined;
      this.#sendAnswer(cookie, request.error, request.message);
      return;
    }
    // It may be answered within the call.
    this.#outstanding.add(request);
    if (this.#options.onRequest(request)) {
      this.#coming = undefined;
    } else {
      if (!this.#outstanding.delete(request)) throw new RangeError("a request was answered and not taken");
      this.#stalled = true;
    }
  }

  #sendAnswer(cookie: bigint, error: NbdErrno | undefined, message: string): void {
    const structured = error !== undefined && this.#agreement!.structured;
    this.#options.send(
      structured ? encodeErrorChunk(cookie, error, message) : encodeSimpleReply(cookie, error),
    );
  }

  /** Whether an answer is still wanted. */
  #settle(request: NbdRequest): boolean {
    if (this.#over) return false;
    if (!this.#outstanding.delete(request))
      throw new RangeError(`a ${request.kind} was answered that nobody waits for`);
    return true;
  }

  #leaveIfDone(): void {
    if (this.#leaving && this.#outstanding.size === 0)
      this.#end(true, "the NBD client has left, with all its requests answered");
  }

  #end(clean: boolean, message: string): void {
    if (this.#over) return;
    this.stop();
    this.#options.onEnd({ clean, message });
  }
}
