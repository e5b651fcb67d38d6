// Bytes of one connection in, whole and checked messages out. Owns no socket.

import { crc32 } from "node:zlib";
import { payloadMemory } from "./payload-memory.ts";
import {
  HEADER_BYTES,
  hex,
  type MessageType,
  ProtocolError,
  type ReplicationMessage,
  type Role,
} from "./replication.ts";
import { PageBounds } from "./replication-checkpoint.ts";
import { decodeMessage } from "./replication-decode.ts";
import { DiskBounds } from "./replication-disk.ts";
import { type Header, readHeader, uuidText } from "./replication-header.ts";

export interface ParserOptions {
  /** The side that reads. */
  readonly receiver: Role;
  /** The VM of which the messages must speak, 16 bytes. Left out: the one that the first HELLO names. */
  readonly vmId?: Uint8Array;
  /**
   * Called within push(), once per message, in order. May call stop(), and may throw: push() throws it on.
   */
  readonly onMessage: (message: ReplicationMessage) => void;
  /**
   * Gives exactly `bytes` bytes for a payload. Never asked for more than the type's cap. Left out:
   * `payloadMemory`.
   */
  readonly allocate?: (bytes: number, type: MessageType) => Uint8Array;
}

/** What LAYOUT and HELLO have allowed: the same on all paths of a session, whichever of them brought it. */
export interface StreamBounds {
  pages?: PageBounds;
  disks?: DiskBounds;
}

/**
 * A push parser. Checks the header (and with it the payload's length against the type's cap) on its 48th
 * byte, before anything is allocated; then the payload's checksum; then its contents; and the order, as far
 * as it is a matter of format: a backup hears HELLO or JOIN first and LAYOUT before PAGES, and no page lies
 * outside its block, no change of a disk outside that disk as HELLO gave it. After an error it is dead: every
 * further push throws the same error.
 */
export class ReplicationParser {
  readonly #options: ParserOptions;
  readonly #headerBytes = new Uint8Array(HEADER_BYTES);
  #headerFilled = 0;
  #header: Header | undefined;
  #payload: Uint8Array = EMPTY;
  #payloadFilled = 0;
  #vmId: Uint8Array | undefined;
  #greeted: boolean;
  #bounds: StreamBounds = {};
  #error: unknown;
  #stopped = false;

  constructor(options: ParserOptions) {
    this.#options = options;
    this.#vmId = options.vmId;
    this.#greeted = options.receiver === "primary";
  }

  /** Whether a message has begun that is not yet whole. */
  get insideMessage(): boolean {
    return this.#headerFilled > 0;
  }

  /** Of all messages so far; another path's parser takes them over with `share`. */
  get bounds(): StreamBounds {
    return this.#bounds;
  }

  /** This is another path of the session whose bounds these are. */
  share(bounds: StreamBounds): void {
    this.#bounds = bounds;
  }

  /** From now on bytes are dropped unread. */
  stop(): void {
    this.#stopped = true;
  }

  /** @throws ProtocolError, or what onMessage throws */
  push(chunk: Uint8Array): void {
    if (this.#error !== undefined) throw this.#error;
    try {
      this.#take(chunk);
    } catch (error) {
      this.#error = error;
      throw error;
    }
  }

  #take(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.byteLength && !this.#stopped) {
      if (this.#header === undefined) {
        const end = Math.min(chunk.byteLength, at + HEADER_BYTES - this.#headerFilled);
        this.#headerBytes.set(chunk.subarray(at, end), this.#headerFilled);
        this.#headerFilled += end - at;
        at = end;
        if (this.#headerFilled < HEADER_BYTES) return;
        this.#beginPayload(this.#checkedHeader());
      } else {
        const end = Math.min(chunk.byteLength, at + this.#payload.byteLength - this.#payloadFilled);
        this.#payload.set(chunk.subarray(at, end), this.#payloadFilled);
        this.#payloadFilled += end - at;
        at = end;
      }
      if (this.#header !== undefined && this.#payloadFilled === this.#payload.byteLength)
        this.#finish(this.#header);
    }
  }

  #checkedHeader(): Header {
    const header = readHeader(this.#headerBytes, this.#options.receiver);
    if (this.#vmId !== undefined && Buffer.compare(this.#vmId, header.vmId) !== 0) {
      throw new ProtocolError("wrong-vm", "VM id", uuidText(header.vmId), uuidText(this.#vmId));
    }
    const greets = header.type === "hello" || header.type === "join";
    if (!this.#greeted && !greets) {
      throw new ProtocolError("wrong-order", "first message", header.type, "hello or join");
    }
    if (greets && this.#greeted) {
      throw new ProtocolError(
        "wrong-order",
        "message",
        header.type,
        `${header.type} only as the first message`,
      );
    }
    if (header.type === "pages" && this.#bounds.pages === undefined) {
      throw new ProtocolError("wrong-order", "message", "pages", "layout before the first pages");
    }
    return header;
  }

  #beginPayload(header: Header): void {
    this.#header = header;
    this.#payloadFilled = 0;
    if (header.payloadBytes === 0) {
      this.#payload = EMPTY;
      return;
    }
    this.#payload = (this.#options.allocate ?? ((bytes) => payloadMemory.take(bytes)))(
      header.payloadBytes,
      header.type,
    );
    if (this.#payload.byteLength !== header.payloadBytes) {
      throw new RangeError(
        `allocate gave ${this.#payload.byteLength} bytes, asked for ${header.payloadBytes}`,
      );
    }
  }

  #finish(header: Header): void {
    const payload = this.#payload;
    this.#header = undefined;
    this.#headerFilled = 0;
    this.#payload = EMPTY;
    this.#payloadFilled = 0;
    const actual = crc32(payload);
    if (actual !== header.payloadCrc) {
      const field = `${header.type} payload checksum`;
      throw new ProtocolError("bad-payload-checksum", field, hex(actual), hex(header.payloadCrc));
    }
    const message = decodeMessage(header, payload);
    if (message.type === "hello" || message.type === "join") {
      this.#vmId = header.vmId;
      this.#greeted = true;
      if (message.type === "hello") this.#bounds.disks = new DiskBounds(message.hello.disks);
    } else if (message.type === "layout") {
      this.#bounds.pages = new PageBounds(message.layout);
    } else if (message.type === "pages") {
      this.#bounds.pages?.check(message.pages);
    } else if (message.type === "disk") {
      this.#bounds.disks?.check(message.entries);
    } else if (message.type === "hash-ask") {
      this.#bounds.disks?.checkRange(message.range);
    }
    this.#options.onMessage(message);
  }
}

const EMPTY = new Uint8Array(0);
