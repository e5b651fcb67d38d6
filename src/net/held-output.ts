/**
 * Guest output waiting for its checkpoint: whole frames, in order, each with the epoch it may come from.
 * Pure.
 */
import type { EpochId } from "../core/words.ts";

/**
 * Longest frame QEMU puts on a redirector's socket (net/filter-mirror.c, net/net.h NET_BUFSIZE plus headers).
 */
export const LONGEST_FRAME_BYTES = 69632;
const LENGTH_BYTES = 4;

/** The stream is not `be32 length, frame`. */
export class FrameStreamError extends Error {}

/** Cuts a redirector's byte stream at frame boundaries. */
export class FrameStream {
  private rest: Uint8Array = new Uint8Array(0);

  /**
   * The whole frames that are complete with `bytes`, their length words included, as one piece; and how many
   * they are.
   */
  push(bytes: Uint8Array): { readonly whole: Uint8Array; readonly frames: number } {
    const all = this.rest.length === 0 ? bytes : Buffer.concat([this.rest, bytes]);
    const view = new DataView(all.buffer, all.byteOffset, all.byteLength);
    let end = 0;
    let frames = 0;
    while (all.length - end >= LENGTH_BYTES) {
      const length = view.getUint32(end);
      if (length === 0 || length > LONGEST_FRAME_BYTES)
        throw new FrameStreamError(
          `a frame of ${length} bytes from QEMU; at most ${LONGEST_FRAME_BYTES} can be`,
        );
      if (all.length - end < LENGTH_BYTES + length) break;
      end += LENGTH_BYTES + length;
      frames++;
    }
    this.rest = all.subarray(end);
    return { whole: all.subarray(0, end), frames };
  }
}

/** The frames of a piece, without their length words. */
export function* framesOf(whole: Uint8Array): Generator<Uint8Array> {
  const view = new DataView(whole.buffer, whole.byteOffset, whole.byteLength);
  for (let at = 0; at < whole.length; ) {
    const end = at + LENGTH_BYTES + view.getUint32(at);
    yield whole.subarray(at + LENGTH_BYTES, end);
    at = end;
  }
}

interface HeldPiece {
  readonly epoch: EpochId;
  readonly bytes: Uint8Array;
  readonly frames: number;
}

export class HeldOutput {
  heldBytes = 0;
  /** Frames dropped because the limit was reached. A network may drop; memory may not grow (I6). */
  droppedFrames = 0;
  private readonly limitBytes: number;
  private queue: HeldPiece[] = [];
  private releasedUpTo: EpochId;

  constructor(limitBytes: number, releasedUpTo: EpochId) {
    this.limitBytes = limitBytes;
    this.releasedUpTo = releasedUpTo;
  }

  /** Takes frames that were read while `epoch` was the running one. Returns them if they may go at once. */
  take(epoch: EpochId, bytes: Uint8Array, frames: number): Uint8Array | undefined {
    if (frames === 0) return undefined;
    if (epoch <= this.releasedUpTo && this.queue.length === 0) return bytes;
    if (this.heldBytes + bytes.length > this.limitBytes) {
      this.droppedFrames += frames;
      return undefined;
    }
    this.heldBytes += bytes.length;
    this.queue.push({ epoch, bytes, frames });
    return undefined;
  }

  /** Everything of epochs up to `upTo`, in the order it came. */
  release(upTo: EpochId): Uint8Array[] {
    this.releasedUpTo = Math.max(this.releasedUpTo, upTo);
    let count = 0;
    while (count < this.queue.length && this.queue[count]!.epoch <= this.releasedUpTo) count++;
    const going = this.queue.slice(0, count);
    this.queue = this.queue.slice(count);
    for (const piece of going) this.heldBytes -= piece.bytes.length;
    return going.map((piece) => piece.bytes);
  }

  /**
   * Everything that waits, of a VM that is paused at checkpoint `upTo`. What comes later is held as before.
   */
  letGo(upTo: EpochId): Uint8Array[] {
    this.releasedUpTo = Math.max(this.releasedUpTo, upTo);
    const going = this.queue;
    this.queue = [];
    this.heldBytes = 0;
    return going.map((piece) => piece.bytes);
  }

  /** From now on only what `upTo` allows may pass. */
  hold(upTo: EpochId): void {
    this.releasedUpTo = upTo;
  }
}
