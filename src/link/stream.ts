// The numbers of the messages of a session, by which it outlives its paths. Owns no socket.
//
// Messages are numbered from 0 in each direction, and the numbers are not sent: on a path they follow one
// another from what CARRY said, so a session of one path pays nothing for them.

import { ProtocolError } from "../codec/replication.ts";
import type { Frame } from "../codec/replication-encode.ts";

/** What becomes of a frame that was handed over. Neither is called if the session ends before. */
export interface Fate {
  /** The kernel has taken its last byte. */
  readonly left?: () => void;
  /**
   * Its memory is free again: with one path when it has left; with several, when the peer has confirmed it,
   * too.
   */
  readonly free?: () => void;
}

/** A message that may have to be sent again, or whose bytes may still be read. */
export interface Kept {
  readonly frame: Frame;
  /** To be called once, or not at all. */
  left: (() => void) | undefined;
  readonly free: (() => void) | undefined;
  /** It waits to be taken by the kernel: its memory must not change, whatever the peer has confirmed. */
  waits: boolean;
  confirmed: boolean;
}

/**
 * What was sent and may have to be sent again over another path. Only one connection at a time has messages
 * that wait for the kernel.
 */
export class Outgoing {
  #first = 0;
  #kept: Kept[] = [];
  /** Confirmed, since they had come by an earlier path, and waiting on this one. */
  readonly #confirmed = new Set<Kept>();
  #keptBytes = 0;

  /** Number of the oldest message that is not confirmed, or of the next one. */
  get first(): number {
    return this.#first;
  }

  /** Bytes of messages whose memory is not free. */
  get keptBytes(): number {
    return this.#keptBytes;
  }

  /** Not confirmed; in order, from `first` on. */
  get kept(): readonly Kept[] {
    return this.#kept;
  }

  keep(frame: Frame, { left, free }: Fate): Kept {
    const kept: Kept = { frame, left, free, waits: false, confirmed: false };
    this.#kept.push(kept);
    this.#keptBytes += frame.byteLength;
    return kept;
  }

  /** It is handed to a connection. To be called back when the kernel has it. */
  write(kept: Kept): () => void {
    kept.waits = true;
    return () => {
      kept.waits = false;
      leave(kept);
      if (kept.confirmed) this.#release(kept);
    };
  }

  /** The connection on which messages waited is no more. */
  unwrite(): void {
    for (const kept of this.#kept) kept.waits = false;
    for (const kept of this.#confirmed) this.#release(kept);
  }

  /**
   * The peer has so many messages. What it said before on a slower path may come later. @throws ProtocolError
   */
  confirm(received: number): void {
    const count = received - this.#first;
    if (count > this.#kept.length) {
      const sent = this.#first + this.#kept.length;
      throw new ProtocolError("wrong-order", "received messages", received, `at most the ${sent} sent`);
    }
    if (count <= 0) return;
    this.#first = received;
    for (const kept of this.#kept.splice(0, count)) {
      kept.confirmed = true;
      leave(kept);
      if (kept.waits) this.#confirmed.add(kept);
      else this.#release(kept);
    }
  }

  #release(kept: Kept): void {
    this.#confirmed.delete(kept);
    this.#keptBytes -= kept.frame.byteLength;
    kept.free?.();
  }
}

function leave(kept: Kept): void {
  const { left } = kept;
  kept.left = undefined;
  left?.();
}

/** A path as the receiver counts on it. */
export interface Counted {
  /** Number of the next message of the stream on it; undefined before CARRY. */
  expected: number | undefined;
}

/**
 * Which messages are new. No path can be ahead of the others by more than one: each began at something that
 * was known.
 */
export class Incoming {
  #next = 0;

  /** Messages delivered so far. */
  get received(): number {
    return this.#next;
  }

  /** @throws ProtocolError if messages would be missing */
  carry(path: Counted, first: number): void {
    if (first > this.#next)
      throw new ProtocolError("wrong-order", "carry first", first, `at most ${this.#next}, the next one`);
    path.expected = first;
  }

  /**
   * Counts a message of the stream that came on this path. True if it is to be delivered. @throws
   * ProtocolError before CARRY
   */
  isNew(path: Counted, type: string): boolean {
    if (path.expected === undefined)
      throw new ProtocolError("wrong-order", "message", type, "carry before it on this path");
    const number = path.expected++;
    if (number < this.#next) return false;
    this.#next++;
    return true;
  }
}
