// Messages as bytes to send; those with contents of the guest are in replication-pages.ts and
// replication-disk.ts.

import { crc32 } from "node:zlib";
import {
  type CheckpointSummary,
  DEVICE_STATE_MAX,
  DEVICE_STATE_PIECE_MAX,
  HEADER_BYTES,
  type Hello,
  type Join,
  type Layout,
  MAX_BLOCK_BYTES,
  MAX_RAM_BLOCKS,
  type MessageType,
  PAGE_BYTES,
  type Refuse,
  type Welcome,
} from "./replication.ts";
import { type FrameIds, uuidBytes, writeHeader } from "./replication-header.ts";

/** One message, ready to be written part by part. Its bytes must not change until they have left. */
export interface Frame {
  readonly type: MessageType;
  readonly parts: readonly Uint8Array[];
  /** Header and payload. */
  readonly byteLength: number;
  readonly payloadCrc: number;
  /** The buffer under a PAGES frame, see PageFrameBuffers. */
  readonly reusable?: Buffer;
}

/** A frame around a payload that lies in pieces. The pieces are not copied. @throws RangeError */
export function frame(type: MessageType, ids: FrameIds, epoch: number, parts: readonly Uint8Array[]): Frame {
  const header = new Uint8Array(HEADER_BYTES);
  let payloadBytes = 0;
  let payloadCrc = 0;
  for (const part of parts) {
    payloadBytes += part.byteLength;
    payloadCrc = crc32(part, payloadCrc);
  }
  writeHeader(header, type, ids, epoch, payloadBytes, payloadCrc);
  return { type, parts: [header, ...parts], byteLength: HEADER_BYTES + payloadBytes, payloadCrc };
}

export function encodeHello(ids: FrameIds, hello: Hello): Frame {
  return frame("hello", ids, 0, [Buffer.from(JSON.stringify(hello))]);
}

export function encodeWelcome(ids: FrameIds, welcome: Welcome): Frame {
  return frame("welcome", ids, 0, [Buffer.from(JSON.stringify(welcome))]);
}

export function encodeJoin(ids: FrameIds, { session, path }: Join): Frame {
  return frame("join", ids, 0, [Buffer.concat([uuidBytes("session", session), u16(path), u16(0)])]);
}

export function encodeJoined(ids: FrameIds): Frame {
  return frame("joined", ids, 0, []);
}

/** @param first number of the message of the stream that follows next on this path */
export function encodeCarry(ids: FrameIds, first: number): Frame {
  return frame("carry", ids, 0, [u64(first)]);
}

export function encodeRefuse(ids: FrameIds, refuse: Refuse): Frame {
  return frame("refuse", ids, 0, [Buffer.from(JSON.stringify(refuse))]);
}

export function encodeLayout(ids: FrameIds, layout: Layout): Frame {
  if (layout.blocks.length > MAX_RAM_BLOCKS) {
    throw new RangeError(`layout: ${layout.blocks.length} RAM blocks, at most ${MAX_RAM_BLOCKS}`);
  }
  const parts = [shortText("hypervisor", layout.hypervisor), u32(layout.header.byteLength), layout.header];
  parts.push(u16(layout.blocks.length));
  const taken = new Set<number>();
  for (const block of layout.blocks) {
    if (block.bytes % PAGE_BYTES !== 0 || block.bytes < 0 || block.bytes > MAX_BLOCK_BYTES) {
      throw new RangeError(
        `RAM block ${block.name}: ${block.bytes} bytes, expected a multiple of ${PAGE_BYTES}`,
      );
    }
    if (taken.has(block.id)) throw new RangeError(`RAM block ${block.name}: id ${block.id} is taken`);
    taken.add(block.id);
    parts.push(u16(block.id), shortText("RAM block name", block.name), u64(block.bytes));
  }
  // Hundreds of tiny pieces cost more to write than one copy.
  return frame("layout", ids, 0, [Buffer.concat(parts)]);
}

/**
 * The pieces of a checkpoint's device state, at most 1 MiB each; none if there is none. The bytes are not
 * copied.
 */
export function* encodeDeviceState(ids: FrameIds, epoch: number, state: Uint8Array): Generator<Frame> {
  if (state.byteLength > DEVICE_STATE_MAX) {
    throw new RangeError(`device state of ${state.byteLength} bytes, at most ${DEVICE_STATE_MAX}`);
  }
  for (let offset = 0; offset < state.byteLength; offset += DEVICE_STATE_PIECE_MAX) {
    const piece = state.subarray(offset, offset + DEVICE_STATE_PIECE_MAX);
    yield frame("device-state", ids, epoch, [u32(state.byteLength), u32(offset), piece]);
  }
}

export function encodeCheckpointEnd(ids: FrameIds, epoch: number, summary: CheckpointSummary): Frame {
  const payload = [u32(summary.pageEntries), u32(summary.deviceStateBytes), u32(summary.digest)];
  payload.push(u32(summary.diskEntries), u32(summary.diskDigest));
  return frame("checkpoint-end", ids, epoch, [Buffer.concat(payload)]);
}

export function encodeAck(ids: FrameIds, epoch: number): Frame {
  return frame("ack", ids, epoch, []);
}

/** @param received messages of the stream that were delivered here */
export function encodeHeartbeat(ids: FrameIds, received: number): Frame {
  return frame("heartbeat", ids, 0, [u64(received)]);
}

export function encodeGoodbye(ids: FrameIds): Frame {
  return frame("goodbye", ids, 0, []);
}

export function encodeGoodbyeOk(ids: FrameIds): Frame {
  return frame("goodbye-ok", ids, 0, []);
}

/**
 * `ids.generation` is the new one; `epoch` the last checkpoint that the backup holds, from which it goes on.
 */
export function encodeTakeover(ids: FrameIds, epoch: number): Frame {
  return frame("takeover", ids, epoch, []);
}

export function encodeAbort(ids: FrameIds, epoch: number): Frame {
  return frame("abort", ids, epoch, []);
}

/** `totalBytes` of payloads of DISK messages of epoch 0 are in the images. */
export function encodeDiskApplied(ids: FrameIds, totalBytes: number): Frame {
  return frame("disk-applied", ids, 0, [u64(totalBytes)]);
}

export function encodeDiskDurable(ids: FrameIds, epoch: number): Frame {
  return frame("disk-durable", ids, epoch, []);
}

export function encodeHandover(ids: FrameIds, epoch: number): Frame {
  return frame("handover", ids, epoch, []);
}

/**
 * @param message one sentence for the operator
 * @param stoodDown whether the backup is out for good
 */
export function encodeHandoverRefused(ids: FrameIds, message: string, stoodDown: boolean): Frame {
  return frame("handover-refused", ids, 0, [Buffer.from(JSON.stringify({ message, stoodDown }))]);
}

/** @param message one sentence for the operator */
export function encodeUnable(ids: FrameIds, message: string): Frame {
  return frame("unable", ids, 0, [Buffer.from(JSON.stringify({ message }))]);
}

/** @param bytes with the virtio-net header before it */
export function encodeInput(ids: FrameIds, nic: number, bytes: Uint8Array): Frame {
  return frame("input", ids, 0, [u16(nic), bytes]);
}

function shortText(what: string, text: string): Uint8Array {
  const bytes = Buffer.from(text);
  if (bytes.length < 1 || bytes.length > 255)
    throw new RangeError(`${what}: ${bytes.length} bytes, expected 1..255`);
  return Buffer.concat([Uint8Array.of(bytes.length), bytes]);
}

function u16(value: number): Uint8Array {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function u32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function u64(value: number): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}
