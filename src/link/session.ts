// One protection's conversation between the two guardians, over one or more paths, each a TCP connection of
// its own.
//
// What one side says is a stream of numbered messages. It goes over one path at a time, the first in the
// order of configuration that is well. With several paths the sender keeps every message until the peer has
// confirmed it, and says what is not confirmed again on another path when this one fails; the receiver hands
// on each exactly once, in order. Signs of life go over all of them.

import { isInStream, type MessageOf, ProtocolError, type ReplicationMessage } from "../codec/replication.ts";
import { encodeCarry, encodeHeartbeat, type Frame } from "../codec/replication-encode.ts";
import { monotonicMs } from "../os/monotonic.ts";
import { type ClosedReason, type Connection, MAX_BUFFERED_BYTES } from "./connection.ts";
import { watch } from "./liveness.ts";
import type { Path, PathStatus } from "./path.ts";
import { PathEvents } from "./path-events.ts";
import { Paths } from "./paths.ts";
import type { SessionOptions } from "./session-options.ts";
import { type Fate, Incoming, Outgoing } from "./stream.ts";

export type { PathEvent, SessionHandlers, SessionOptions } from "./session-options.ts";

/**
 * Half a MiB at the most waits for the next heartbeat to be confirmed: what is kept may be staging that
 * capture waits for.
 */
const CONFIRM_BYTES = 512 * 1024;

export class Session {
  readonly id: string;
  readonly peer: string;
  readonly #options: SessionOptions;
  readonly #paths: Paths;
  readonly #outgoing = new Outgoing();
  readonly #incoming = new Incoming();
  readonly #pathEvents: PathEvents;
  readonly #atEnd: (() => void)[] = [];
  readonly #bounds: Connection["bounds"];
  /** Where this side's stream goes. */
  #data: Path;
  #closed: ClosedReason | undefined;
  #lastWordHeard = false;
  #givenUp = false;

  /** @param opener connected and welcomed. The session owns it from now on. */
  constructor(opener: Connection, options: SessionOptions) {
    this.id = options.id;
    this.peer = opener.peer;
    this.#options = options;
    this.#bounds = opener.bounds;
    this.#paths = new Paths(options.paths, options.signs);
    this.#pathEvents = new PathEvents((event) => options.handlers.onPath?.(event));
    this.#data = this.#paths.all[options.path]!;
    this.#open(this.#data, opener);
    // The session's first connection carries the stream without being told so.
    this.#data.expected = 0;
    watch(this, options.paths > 1, options.signs, (silentMs) => {
      this.#givenUp = true;
      options.handlers.onSilent(silentMs);
    });
  }

  /** Why it is over, or undefined while it is not. */
  get closed(): ClosedReason | undefined {
    return this.#closed;
  }

  /** Bytes handed to send() that the kernel of no path has taken yet. */
  get bufferedBytes(): number {
    return this.#data.connection?.bufferedBytes ?? 0;
  }

  /** Bytes of messages that may have to be said again; with one path, none. */
  get keptBytes(): number {
    return this.#outgoing.keptBytes;
  }

  /** When anything was last heard, on whichever path; by os/monotonic. */
  get lastHeardMs(): number {
    return this.#paths.lastHeardMs;
  }

  /** Of the paths that are up. */
  get connections(): Connection[] {
    return this.#paths.connections;
  }

  /** All of them, in the order of configuration. */
  get paths(): PathStatus[] {
    return this.#paths.all.map((path) => path.status(path === this.#data));
  }

  /** For what lives as long as the session: called just before onClosed, at once if it is over. */
  atEnd(stop: () => void): void {
    if (this.#closed === undefined) this.#atEnd.push(stop);
    else stop();
  }

  /**
   * Queues a message of the stream behind those before it. Never blocks, never throws for the network's sake;
   * dropped when the session is over.
   * @throws RangeError for a message that is not of the stream
   */
  send(frame: Frame, fate: Fate = {}): void {
    if (!isInStream(frame.type)) throw new RangeError(`${frame.type} is no message of the stream`);
    if (this.#closed !== undefined) return;
    if (!this.#several) {
      this.#data.connection?.send(frame, () => {
        fate.left?.();
        fate.free?.();
      });
      return;
    }
    const most = this.#options.maxKeptBytes ?? MAX_BUFFERED_BYTES;
    if (this.#outgoing.keptBytes + frame.byteLength > most) {
      const message = `${this.peer}: ${this.#outgoing.keptBytes} bytes are not confirmed and ${frame.type} would go beyond ${most}; the link is too slow, or its user did not wait`;
      this.#end({ kind: "overrun", message });
      return;
    }
    const kept = this.#outgoing.keep(frame, fate);
    this.#data.connection?.send(frame, this.#outgoing.write(kept));
  }

  /**
   * Resolves when at most `bytes` wait for a kernel to take them; at once if so. Rejects when the session
   * ends.
   */
  async whenBelow(bytes: number): Promise<void> {
    for (;;) {
      if (this.#closed !== undefined) throw new Error(this.#closed.message);
      const { connection } = this.#data;
      try {
        await connection?.whenBelow(bytes);
      } catch {
        // That path is lost. What waited on it waits on another one now, or the session is over.
      }
      if (connection === this.#data.connection && this.#closed === undefined) return;
    }
  }

  /** A path is there, for the first time or again: it takes the place of the one before. */
  join(index: number, connection: Connection): void {
    const path = this.#paths.all[index]!;
    if (this.#closed !== undefined) {
      connection.destroy(this.#closed.message);
      return;
    }
    const before = path.connection;
    this.#open(path, connection);
    before?.destroy(`${connection.peer} takes its place`);
    if (path === this.#data) this.#carryOn();
    this.#pathEvents.up(index, `${connection.peer} is there`);
  }

  /**
   * Of the side that makes paths: a try came to nothing. @param refused somebody answered, and says why not
   */
  couldNotJoin(index: number, reason: string, refused: boolean): void {
    if (this.#closed === undefined) this.#pathEvents.down(index, reason, refused);
  }

  /** For one who tried to make a path and heard instead that the session's time is over. */
  hearLastWord(message: MessageOf<"takeover">): void {
    if (this.#closed !== undefined || this.#lastWordHeard) return;
    this.#lastWordHeard = true;
    this.#options.handlers.onMessage(message, undefined);
  }

  /**
   * To be called often. Gives up paths that are silent while others are heard: what lies in them would only
   * be in the way when they carry again, and a new connection is quicker than TCP's own patience.
   */
  look(nowMs: number): void {
    for (const connection of this.#paths.lagging(nowMs)) {
      const silentMs = Math.round(nowMs - connection.lastHeardMs);
      const why = `nothing was heard on this path for ${silentMs} ms, but on another one`;
      connection.destroy(`${connection.peer}: ${why}`);
    }
    // The stream goes back to the first path that is well, once nothing waits on this one.
    const better = this.#paths.betterThan(this.#data, nowMs);
    if (better !== undefined && this.bufferedBytes === 0) this.#carryOn(better);
  }

  /** A sign of life on every path, and how much of the peer's stream has come. */
  beat(quietMs: number): void {
    const now = monotonicMs();
    for (const connection of this.connections)
      if (this.#wantsBeat(connection, now - quietMs)) this.#confirm(connection);
  }

  /** Closes every path at once; what is not sent is lost. `why` goes into the reason, as a sentence. */
  destroy(why: string): void {
    this.#end({ kind: "destroyed", message: why });
  }

  /**
   * Sends a last word on every path, and drops each when the peer has closed it, too, or after `graceMs`.
   * Nothing is received any more; onClosed is called at once.
   */
  finish(frame: Frame, why: string, graceMs = 1000): void {
    if (this.#closed !== undefined) return;
    const { connections } = this;
    this.#closed = { kind: "destroyed", message: why };
    for (const connection of connections) connection.finish(frame, why, graceMs);
    this.#over(this.#closed);
  }

  get #several(): boolean {
    return this.#paths.all.length > 1;
  }

  /**
   * No beat waits behind other bytes: they are a sign of life, and it would only grow the queue (I6). A new
   * receipt is worth it.
   */
  #wantsBeat(connection: Connection, sentBeforeMs: number): boolean {
    if (connection.bufferedBytes > 0) return this.#several && this.#confirmed !== this.#incoming.received;
    return this.#several || connection.lastSentMs <= sentBeforeMs;
  }

  /** Messages that the peer was told of. */
  #confirmed = 0;

  #confirm(connection: Connection): void {
    this.#confirmed = this.#incoming.received;
    connection.send(encodeHeartbeat(this.#options.ids, this.#confirmed));
  }

  #open(path: Path, connection: Connection): void {
    path.open(connection, monotonicMs());
    connection.share(this.#bounds);
    connection.handOver({
      onMessage: (message) => this.#take(path, connection, message),
      onClosed: (reason) => {
        if (path.connection === connection) this.#lost(path, reason);
      },
    });
  }

  #take(path: Path, by: Connection, message: ReplicationMessage): void {
    if (this.#closed !== undefined || this.#lastWordHeard) return;
    const { type } = message;
    if (isInStream(type)) {
      if (this.#incoming.isNew(path, type)) this.#deliver(message, by);
      if (this.#several) this.#confirmInTime(path, by);
      return;
    }
    switch (type) {
      case "heartbeat":
        if (this.#several) this.#outgoing.confirm(message.received);
        this.#deliver(message, by);
        return;
      case "carry":
        this.#incoming.carry(path, message.first);
        return;
      case "takeover":
      case "unable":
        this.#lastWordHeard = true;
        this.#deliver(message, by);
        return;
      default:
        throw new ProtocolError("wrong-order", "message", type, `${type} only before the session has begun`);
    }
  }

  #deliver(message: ReplicationMessage, by: Connection): void {
    try {
      this.#options.handlers.onMessage(message, by);
    } catch (cause) {
      if (!(cause instanceof ProtocolError)) throw cause;
      this.#end({ kind: "protocol", message: `${this.peer}: ${cause.message}`, cause });
    }
  }

  /** The peer is not to wait for a heartbeat with much that it must keep. */
  #confirmInTime(path: Path, by: Connection): void {
    if (by.heardBytes - path.confirmedBytes < CONFIRM_BYTES) return;
    path.confirmedBytes = by.heardBytes;
    this.#confirm(by);
  }

  #lost(path: Path, reason: ClosedReason): void {
    this.#paths.close(path, monotonicMs());
    if (this.#closed !== undefined) return;
    if (this.connections.length === 0) {
      this.#end(reason);
      return;
    }
    if (path === this.#data) this.#carryOn();
    this.#pathEvents.soonDown(path.index, reason.message);
    this.#options.rejoin?.(path.index);
  }

  /**
   * Says all that is not confirmed on this path, and what is still to come. Nothing may wait on another one:
   * it is closed, or all has left. Not after the owner was told that the peer is lost: what was said before
   * must not be said again as if it were news (I3).
   */
  #carryOn(path = this.#paths.choose()): void {
    const connection = path?.connection;
    if (path === undefined || connection === undefined || this.#givenUp) return;
    this.#data = path;
    this.#outgoing.unwrite();
    connection.send(encodeCarry(this.#options.ids, this.#outgoing.first));
    for (const kept of this.#outgoing.kept) {
      if (connection.closed !== undefined) return;
      connection.send(kept.frame, this.#outgoing.write(kept));
    }
  }

  #end(reason: ClosedReason): void {
    if (this.#closed !== undefined) return;
    this.#closed = reason;
    for (const connection of this.connections) connection.destroy(reason.message);
    this.#over(reason);
  }

  #over(reason: ClosedReason): void {
    this.#pathEvents.stop();
    for (const stop of this.#atEnd.splice(0)) stop();
    this.#options.handlers.onClosed(reason);
  }
}
