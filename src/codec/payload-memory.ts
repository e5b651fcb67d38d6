/**
 * Memory for large payloads that come in, used again and again. With a fresh piece for each message the
 * runtime looks all through its heap for garbage, five and more times a second: some 20 ms each, on several
 * processors. Whoever is done with a payload gives it back; one that is never given back is ordinary garbage.
 */
import { DISK_PAYLOAD_MAX, PAGES_PAYLOAD_MAX } from "./replication.ts";

/** Smaller ones are cheap enough. */
const LEAST_BYTES = 64 << 10;
/** A payload gets the smallest piece that holds it: never more than twice what it needs. */
const SIZES = [LEAST_BYTES * 2, 256 << 10, 512 << 10, 1 << 20, Math.max(PAGES_PAYLOAD_MAX, DISK_PAYLOAD_MAX)];
const MOST_IDLE_BYTES = 32 << 20;

export class PayloadMemory {
  /** Of what lies here unused (I6). */
  idleBytes = 0;
  private readonly idle = new Map<number, ArrayBufferLike[]>(SIZES.map((bytes) => [bytes, []]));
  private readonly lent = new WeakSet<ArrayBufferLike>();

  /** Exactly so many bytes, with anything in them. */
  take(bytes: number): Uint8Array {
    const size = bytes < LEAST_BYTES ? undefined : SIZES.find((size) => bytes <= size);
    if (size === undefined) return Buffer.allocUnsafeSlow(bytes);
    const known = this.idle.get(size)!.pop();
    if (known !== undefined) this.idleBytes -= size;
    const piece = known ?? Buffer.allocUnsafeSlow(size).buffer;
    this.lent.add(piece);
    return Buffer.from(piece, 0, bytes);
  }

  /**
   * Nobody looks at it any more, nor at what is in the same payload. What is not from here, or was given back
   * already, is left alone.
   */
  giveBack({ buffer }: Uint8Array): void {
    const size = buffer.byteLength;
    if (!this.lent.delete(buffer) || this.idleBytes + size > MOST_IDLE_BYTES) return;
    this.idle.get(size)!.push(buffer);
    this.idleBytes += size;
  }
}

/** One for the process: who gives a payload back need not know whence it came. */
export const payloadMemory = new PayloadMemory();
