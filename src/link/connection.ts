// One connection between the two guardians of a VM, a path of their session: whole messages in, whole frames
// out.

import type { Duplex } from "node:stream";
import { ProtocolError, type ReplicationMessage, type Role } from "../codec/replication.ts";
import type { Frame } from "../codec/replication-encode.ts";
import { ReplicationParser, type StreamBounds } from "../codec/replication-parser.ts";
import { monotonicMs } from "../os/monotonic.ts";

/** Why a connection is over. `message` is a sentence for the log. */
export type ClosedReason =
  /** The peer closed it; `cut` if in the middle of a message. */
  | { readonly kind: "peer-closed"; readonly cut: boolean; readonly message: string }
  /** The network or the kernel broke it. */
  | { readonly kind: "broken"; readonly message: string; readonly cause: Error }
  /** The peer does not keep to the protocol. */
  | { readonly kind: "protocol"; readonly message: string; readonly cause: ProtocolError }
  /** More was sent than may wait here: the sender did not look at bufferedBytes (I6). */
  | { readonly kind: "overrun"; readonly message: string }
  /** This side closed it. */
  | { readonly kind: "destroyed"; readonly message: string };

export interface ConnectionHandlers {
  /**
   * Called within the socket's own event, without delay. What it throws as ProtocolError (a checkpoint that
   * is not whole, say) closes the connection like the parser's own errors.
   */
  readonly onMessage: (message: ReplicationMessage) => void;
  /** Exactly once, and nothing after it. Within destroy() when this side closes. */
  readonly onClosed: (reason: ClosedReason) => void;
}

export interface ConnectionOptions {
  /** The role of this side. */
  readonly role: Role;
  /** Left out at a listener: learnt from HELLO. */
  readonly vmId?: Uint8Array;
  /** Who is at the other end, for sentences: "primary 10.0.0.1:40312". */
  readonly peer: string;
  /** Its address alone, where it matters. */
  readonly from?: string;
  readonly handlers: ConnectionHandlers;
  /** At most this much may wait to be sent; more ends the connection. */
  readonly maxBufferedBytes?: number;
}

export const MAX_BUFFERED_BYTES = 256 * 1024 * 1024;

export class Connection {
  readonly peer: string;
  readonly from: string | undefined;
  readonly #socket: Duplex;
  readonly #parser: ReplicationParser;
  readonly #maxBufferedBytes: number;
  #handlers: ConnectionHandlers;
  #closed: ClosedReason | undefined;
  #bufferedBytes = 0;
  #lastSentMs = monotonicMs();
  #lastHeardMs = monotonicMs();
  #heardBytes = 0;
  #paused = false;
  readonly #atEnd: (() => void)[] = [];
  #waiting: { readonly below: number; readonly resolve: () => void; readonly reject: (e: Error) => void }[] =
    [];

  /** @param socket connected; TCP, TLS or any other byte stream. The connection owns it from now on. */
  constructor(socket: Duplex, options: ConnectionOptions) {
    this.peer = options.peer;
    this.from = options.from;
    this.#socket = socket;
    this.#handlers = options.handlers;
    this.#maxBufferedBytes = options.maxBufferedBytes ?? MAX_BUFFERED_BYTES;
    this.#parser = new ReplicationParser({
      receiver: options.role,
      ...(options.vmId === undefined ? {} : { vmId: options.vmId }),
      onMessage: (message) => this.#handlers.onMessage(message),
    });
    // With Nagle's algorithm a small message (an ack!) would wait for the peer's TCP acknowledgement.
    if ("setNoDelay" in socket && typeof socket.setNoDelay === "function") socket.setNoDelay(true);
    socket.on("data", (chunk: Uint8Array) => this.#read(chunk));
    socket.on("end", () => this.#ended());
    socket.on("error", (cause: Error) => {
      this.#close({ kind: "broken", message: `${this.peer}: connection broke: ${cause.message}`, cause });
    });
    socket.on("close", () => this.#ended());
  }

  /** Why it is over, or undefined while it is not. */
  get closed(): ClosedReason | undefined {
    return this.#closed;
  }

  /** Bytes handed to send() that the kernel has not taken yet. */
  get bufferedBytes(): number {
    return this.#bufferedBytes;
  }

  /** When send() was last called; by os/monotonic. */
  get lastSentMs(): number {
    return this.#lastSentMs;
  }

  /** When a byte last came from the peer; by os/monotonic. */
  get lastHeardMs(): number {
    return this.#lastHeardMs;
  }

  /** Bytes that came from the peer so far. */
  get heardBytes(): number {
    return this.#heardBytes;
  }

  /** What the messages that came have allowed those that follow; the same for all paths of a session. */
  get bounds(): StreamBounds {
    return this.#parser.bounds;
  }

  share(bounds: StreamBounds): void {
    this.#parser.share(bounds);
  }

  /** Whether this side does not read at present; then silence means nothing. */
  get paused(): boolean {
    return this.#paused;
  }

  /** From now on these handlers are called. If it is over already, onClosed follows in a microtask. */
  handOver(handlers: ConnectionHandlers): void {
    this.#handlers = handlers;
    const reason = this.#closed;
    if (reason !== undefined) queueMicrotask(() => handlers.onClosed(reason));
  }

  /** For what lives as long as the connection: called just before onClosed, at once if it is over. */
  atEnd(stop: () => void): void {
    if (this.#closed === undefined) this.#atEnd.push(stop);
    else stop();
  }

  /**
   * Queues a frame behind those before it. Never blocks, never throws for the network's sake; dropped when
   * the connection is over.
   * @param sent called once the kernel has taken the last byte: the frame's memory is free again. Not called
   * if the connection ends before.
   */
  send(frame: Frame, sent?: () => void): void {
    if (this.#closed !== undefined) return;
    const { parts, byteLength } = frame;
    if (this.#bufferedBytes + byteLength > this.#maxBufferedBytes) {
      const message = `${this.peer}: ${this.#bufferedBytes} bytes wait to be sent and ${frame.type} would go beyond ${this.#maxBufferedBytes}; the link is too slow, or its user did not wait`;
      this.#close({ kind: "overrun", message });
      return;
    }
    this.#bufferedBytes += byteLength;
    this.#lastSentMs = monotonicMs();
    const last = parts.length - 1;
    if (last > 0) this.#socket.cork();
    for (const [i, part] of parts.entries()) {
      if (i < last) this.#socket.write(part);
      else this.#socket.write(part, (error) => this.#left(byteLength, error, sent));
    }
    if (last > 0) this.#socket.uncork();
  }

  /** Resolves when at most `bytes` wait to be sent; at once if so. Rejects when the connection ends. */
  whenBelow(bytes: number): Promise<void> {
    if (this.#closed !== undefined) return Promise.reject(new Error(this.#closed.message));
    if (this.#bufferedBytes <= bytes) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiting.push({ below: bytes, resolve, reject }));
  }

  /**
   * Stops reading: the peer's bytes wait in the kernel, and then at the peer. For a reader that must catch
   * up.
   */
  pause(): void {
    this.#paused = true;
    this.#socket.pause();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#lastHeardMs = monotonicMs();
    this.#socket.resume();
  }

  /** Closes at once; what is not sent is lost. `why` goes into the reason, as a sentence. */
  destroy(why: string): void {
    this.#close({ kind: "destroyed", message: why });
  }

  /**
   * Sends a last frame, closes for sending, and drops the connection when the peer has closed too or after
   * `graceMs`. Nothing is received any more; onClosed is called at once.
   */
  finish(frame: Frame, why: string, graceMs = 1000): void {
    if (this.#closed !== undefined) return;
    this.send(frame);
    this.#close({ kind: "destroyed", message: why }, graceMs);
  }

  #read(chunk: Uint8Array): void {
    if (this.#closed !== undefined) return;
    this.#lastHeardMs = monotonicMs();
    this.#heardBytes += chunk.byteLength;
    try {
      this.#parser.push(chunk);
    } catch (cause) {
      if (!(cause instanceof ProtocolError)) throw cause;
      this.#close({ kind: "protocol", message: `${this.peer}: ${cause.message}`, cause });
    }
  }

  #ended(): void {
    const cut = this.#parser.insideMessage;
    const where = cut ? " in the middle of a message" : "";
    this.#close({ kind: "peer-closed", cut, message: `${this.peer} closed the connection${where}` });
  }

  #left(byteLength: number, error: Error | null | undefined, sent: (() => void) | undefined): void {
    // After an error the socket's own "error" event follows and closes.
    if (error || this.#closed !== undefined) return;
    this.#bufferedBytes -= byteLength;
    sent?.();
    if (this.#waiting.length === 0) return;
    const ready = this.#waiting.filter((one) => this.#bufferedBytes <= one.below);
    this.#waiting = this.#waiting.filter((one) => this.#bufferedBytes > one.below);
    for (const one of ready) one.resolve();
  }

  #close(reason: ClosedReason, graceMs?: number): void {
    if (this.#closed !== undefined) return;
    this.#closed = reason;
    this.#parser.stop();
    const socket = this.#socket;
    if (graceMs === undefined) {
      socket.destroy();
    } else {
      const timer = setTimeout(() => socket.destroy(), graceMs);
      socket.once("close", () => clearTimeout(timer));
      socket.resume();
      socket.end();
    }
    for (const stop of this.#atEnd.splice(0)) stop();
    for (const one of this.#waiting.splice(0)) one.reject(new Error(reason.message));
    this.#handlers.onClosed(reason);
  }
}
