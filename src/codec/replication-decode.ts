// A checked header and its payload as a message.

import {
  type CheckpointSummary,
  DEVICE_STATE_MAX,
  type DeviceStatePiece,
  type Hello,
  type Layout,
  MAX_BLOCK_BYTES,
  MAX_RAM_BLOCKS,
  PAGE_BYTES,
  ProtocolError,
  type RamBlock,
  type Refuse,
  type ReplicationMessage,
  type Welcome,
} from "./replication.ts";
import { type Header, vmIdText } from "./replication-header.ts";
import { decodePages } from "./replication-pages.ts";

/** Reads the payload of a message whose checksum is right. Byte arrays in the answer lie in `payload`. @throws ProtocolError */
export function decodeMessage(header: Header, payload: Uint8Array): ReplicationMessage {
  const { type, generation, epoch, payloadCrc } = header;
  const base = { generation, epoch, payloadCrc };
  switch (type) {
    case "hello":
      return { ...base, type, vmId: vmIdText(header.vmId), hello: decodeHello(payload) };
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
      return { ...base, type, sequence: new Reader("heartbeat", payload).u64("sequence") };
    default:
      return { ...base, type };
  }
}

function decodeHello(payload: Uint8Array): Hello {
  const json = new JsonObject("hello", payload);
  return {
    protocol: json.integer("protocol"),
    host: json.text("host"),
    machine: json.flatRecord("machine"),
    ramBytes: json.integer("ramBytes"),
    intervalMs: json.positiveNumber("intervalMs"),
  };
}

function decodeWelcome(payload: Uint8Array): Welcome {
  const json = new JsonObject("welcome", payload);
  return { host: json.text("host"), generation: json.integer("generation") };
}

function decodeRefuse(payload: Uint8Array): Refuse {
  const json = new JsonObject("refuse", payload);
  return { code: json.text("code"), message: json.text("message") };
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
  };
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decodeText(field: string, bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw new ProtocolError("bad-payload", field, `${bytes.byteLength} bytes`, "UTF-8", { cause });
  }
}

/** Reads fields one behind the other; a field that does not fit is an error that names it. */
class Reader {
  readonly #what: string;
  readonly #payload: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(what: string, payload: Uint8Array) {
    this.#what = what;
    this.#payload = payload;
    this.#view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  }

  #advance(field: string, bytes: number): number {
    const start = this.#at;
    const left = this.#payload.byteLength - start;
    if (bytes > left) {
      throw new ProtocolError(
        "bad-payload",
        `${this.#what} ${field}`,
        `${bytes} bytes`,
        `at most the ${left} left`,
      );
    }
    this.#at = start + bytes;
    return start;
  }

  u16(field: string): number {
    return this.#view.getUint16(this.#advance(field, 2));
  }

  u32(field: string): number {
    return this.#view.getUint32(this.#advance(field, 4));
  }

  u64(field: string): number {
    const at = this.#advance(field, 8);
    const value = this.#view.getUint32(at) * 2 ** 32 + this.#view.getUint32(at + 4);
    if (Number.isSafeInteger(value)) return value;
    throw new ProtocolError("bad-payload", `${this.#what} ${field}`, value, "below 2^53");
  }

  bytes(field: string, count: number): Uint8Array {
    const at = this.#advance(field, count);
    return this.#payload.subarray(at, at + count);
  }

  rest(): Uint8Array {
    return this.bytes("rest", this.#payload.byteLength - this.#at);
  }

  shortText(field: string): string {
    const count = this.#view.getUint8(this.#advance(`${field} length`, 1));
    if (count === 0) throw new ProtocolError("bad-payload", `${this.#what} ${field} length`, 0, "1..255");
    return decodeText(`${this.#what} ${field}`, this.bytes(field, count));
  }

  end(): void {
    const left = this.#payload.byteLength - this.#at;
    if (left > 0)
      throw new ProtocolError("bad-payload", `${this.#what} payload`, `${left} bytes too long`, "its end");
  }
}

/** The fields of a JSON payload. Fields that are not asked for are ignored: a later version may add some. */
class JsonObject {
  readonly #what: string;
  readonly #fields: Record<string, unknown>;

  constructor(what: string, payload: Uint8Array) {
    this.#what = what;
    const text = decodeText(what, payload);
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      throw new ProtocolError("bad-payload", what, text, "JSON", { cause });
    }
    if (!isRecord(value)) throw new ProtocolError("bad-payload", what, text, "a JSON object");
    this.#fields = value;
  }

  #field(name: string): unknown {
    return Object.hasOwn(this.#fields, name) ? this.#fields[name] : undefined;
  }

  #wrong(name: string, expected: string): ProtocolError {
    const value = this.#field(name);
    const text = value === undefined ? "missing" : JSON.stringify(value);
    return new ProtocolError("bad-payload", `${this.#what} ${name}`, text, expected);
  }

  text(name: string): string {
    const value = this.#field(name);
    if (typeof value === "string") return value;
    throw this.#wrong(name, "a string");
  }

  integer(name: string): number {
    const value = this.#field(name);
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
    throw this.#wrong(name, "an integer from 0 to 2^53 - 1");
  }

  positiveNumber(name: string): number {
    const value = this.#field(name);
    if (typeof value === "number" && Number.isFinite(value) && value > 0) return value;
    throw this.#wrong(name, "a number above 0");
  }

  flatRecord(name: string): Record<string, string | number> {
    const value = this.#field(name);
    if (!isRecord(value)) throw this.#wrong(name, "an object of strings and numbers");
    const entries: [string, string | number][] = [];
    for (const [key, item] of Object.entries(value)) {
      const fits = typeof item === "string" || (typeof item === "number" && Number.isFinite(item));
      if (!fits) throw this.#wrong(name, `an object of strings and numbers (${key} is neither)`);
      entries.push([key, item]);
    }
    // fromEntries makes own properties whatever the key, "__proto__" too.
    return Object.fromEntries(entries);
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
