// A checked header and its payload as a message.

import {
  type CheckpointSummary,
  DEVICE_STATE_MAX,
  type DeviceStatePiece,
  type Join,
  type Layout,
  MAX_BLOCK_BYTES,
  MAX_PATHS,
  MAX_RAM_BLOCKS,
  PAGE_BYTES,
  ProtocolError,
  type RamBlock,
  type ReplicationMessage,
} from "./replication.ts";
import { decodeDisk, decodeHashes, decodeHashRange } from "./replication-disk.ts";
import { decodeHello, decodeRefuse, decodeWelcome } from "./replication-greeting.ts";
import { type Header, uuidText } from "./replication-header.ts";
import { decodePages } from "./replication-pages.ts";
import { JsonObject, Reader } from "./replication-reader.ts";

/**
 * Reads the payload of a message whose checksum is right. Byte arrays in the answer lie in `payload`. @throws
 * ProtocolError
 */
export function decodeMessage(header: Header, payload: Uint8Array): ReplicationMessage {
  const { type, generation, epoch, payloadCrc } = header;
  const base = { generation, epoch, payloadCrc };
  switch (type) {
    case "hello":
      return { ...base, type, vmId: uuidText(header.vmId), hello: decodeHello(payload) };
    case "welcome":
      return { ...base, type, welcome: decodeWelcome(payload) };
    case "refuse":
      return { ...base, type, refuse: decodeRefuse(payload) };
    case "layout":
      return { ...base, type, layout: decodeLayout(payload) };
    case "pages":
      return { ...base, type, pages: decodePages(payload) };
    case "device-state":
      return { ...base, type, piece: decodeDeviceState(payload) };
    case "checkpoint-end":
      return { ...base, type, summary: decodeCheckpointEnd(payload) };
    case "heartbeat":
      return { ...base, type, received: new Reader(type, payload).u64("received") };
    case "join":
      return { ...base, type, vmId: uuidText(header.vmId), join: decodeJoin(payload) };
    case "carry":
      return { ...base, type, first: new Reader(type, payload).u64("first") };
    case "disk":
      return { ...base, type, entries: decodeDisk(payload), payloadBytes: payload.byteLength };
    case "disk-applied":
      return { ...base, type, totalBytes: new Reader(type, payload).u64("total") };
    case "hash-ask":
      return { ...base, type, range: decodeHashRange(new Reader(type, payload), type) };
    case "hashes":
      return { ...base, type, ...decodeHashes(payload) };
    case "handover-refused": {
      const json = JsonObject.parse(type, payload);
      return { ...base, type, message: json.text("message"), stoodDown: json.flag("stoodDown") };
    }
    case "unable":
      return { ...base, type, message: JsonObject.parse(type, payload).text("message") };
    case "input": {
      const reader = new Reader(type, payload);
      return { ...base, type, nic: reader.u16("card"), frame: reader.rest() };
    }
    default:
      return { ...base, type };
  }
}

function decodeJoin(payload: Uint8Array): Join {
  const reader = new Reader("join", payload);
  const session = uuidText(reader.bytes("session", 16));
  const path = reader.u16("path");
  if (path >= MAX_PATHS) throw new ProtocolError("bad-payload", "join path", path, `below ${MAX_PATHS}`);
  const reserved = reader.u16("reserved");
  if (reserved !== 0) throw new ProtocolError("bad-payload", "join reserved", reserved, "0");
  return { session, path };
}

function decodeLayout(payload: Uint8Array): Layout {
  const reader = new Reader("layout", payload);
  const hypervisor = reader.shortText("hypervisor");
  const header = reader.bytes("header", reader.u32("header length"));
  const count = reader.u16("block count");
  if (count > MAX_RAM_BLOCKS)
    throw new ProtocolError("bad-payload", "layout block count", count, `0..${MAX_RAM_BLOCKS}`);
  const blocks: RamBlock[] = [];
  const ids = new Set<number>();
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    const block = {
      id: reader.u16("block id"),
      name: reader.shortText("block name"),
      bytes: reader.u64("block length"),
    };
    if (ids.has(block.id))
      throw new ProtocolError("bad-payload", "layout block id", block.id, "each id once");
    if (names.has(block.name))
      throw new ProtocolError("bad-payload", "layout block name", block.name, "each name once");
    if (block.bytes % PAGE_BYTES !== 0 || block.bytes > MAX_BLOCK_BYTES) {
      const expected = `a multiple of ${PAGE_BYTES}, at most ${MAX_BLOCK_BYTES}`;
      throw new ProtocolError("bad-payload", `layout block ${block.name} length`, block.bytes, expected);
    }
    ids.add(block.id);
    names.add(block.name);
    blocks.push(block);
  }
  reader.end();
  return { hypervisor, header, blocks };
}

function decodeDeviceState(payload: Uint8Array): DeviceStatePiece {
  const reader = new Reader("device-state", payload);
  const total = reader.u32("total length");
  const offset = reader.u32("offset");
  const bytes = reader.rest();
  if (total > DEVICE_STATE_MAX) {
    throw new ProtocolError("bad-payload", "device-state total length", total, `at most ${DEVICE_STATE_MAX}`);
  }
  if (offset + bytes.byteLength > total) {
    const expected = `a piece of ${bytes.byteLength} bytes to end within ${total}`;
    throw new ProtocolError("bad-payload", "device-state offset", offset, expected);
  }
  return { total, offset, bytes };
}

function decodeCheckpointEnd(payload: Uint8Array): CheckpointSummary {
  const reader = new Reader("checkpoint-end", payload);
  return {
    pageEntries: reader.u32("page entries"),
    deviceStateBytes: reader.u32("device state length"),
    digest: reader.u32("digest"),
    diskEntries: reader.u32("disk entries"),
    diskDigest: reader.u32("disk digest"),
  };
}
