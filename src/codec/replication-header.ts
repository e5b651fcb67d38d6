// The 48 bytes before every payload. They defend themselves: whatever is wrong is found before a payload byte
// is read or allocated.

import { crc32 } from "node:zlib";
import {
  FRAMING_VERSION,
  HEADER_BYTES,
  hex,
  MAGIC,
  MESSAGES,
  type MessageType,
  ProtocolError,
  type Role,
} from "./replication.ts";

/** What is the same in every message that one side sends: the VM (16 bytes) and the sender's generation. */
export interface FrameIds {
  readonly vmId: Uint8Array;
  readonly generation: number;
}

export interface Header {
  readonly type: MessageType;
  readonly vmId: Uint8Array;
  readonly generation: number;
  readonly epoch: number;
  readonly payloadBytes: number;
  readonly payloadCrc: number;
}

export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const U32 = 2 ** 32;

/** The 16 bytes of a VM's UUID. Throws RangeError if the text is none. */
export function vmIdBytes(uuid: string): Uint8Array {
  return uuidBytes("VM id", uuid);
}

/** The same of any UUID; `what` names it in the error. */
export function uuidBytes(what: string, uuid: string): Uint8Array {
  if (!UUID.test(uuid))
    throw new RangeError(`${what} ${JSON.stringify(uuid)} is not a UUID (8-4-4-4-12 hex digits)`);
  return Uint8Array.from(Buffer.from(uuid.replaceAll("-", ""), "hex"));
}

/** The UUID in its usual form, lower case. */
export function uuidText(bytes: Uint8Array): string {
  const digits = Buffer.from(bytes.buffer, bytes.byteOffset, 16).toString("hex");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Writes the header into the first 48 bytes of `target`. Throws RangeError on a value that does not fit. */
export function writeHeader(
  target: Uint8Array,
  type: MessageType,
  ids: FrameIds,
  epoch: number,
  payloadBytes: number,
  payloadCrc: number,
): void {
  const rule = MESSAGES[type];
  if (payloadBytes < rule.min || payloadBytes > rule.max) {
    throw new RangeError(`${type}: payload of ${payloadBytes} bytes, allowed ${rule.min}..${rule.max}`);
  }
  if (ids.vmId.length !== 16) throw new RangeError(`VM id of ${ids.vmId.length} bytes, expected 16`);
  if (!Number.isSafeInteger(epoch) || epoch < 0 || (!rule.epoch && epoch !== 0)) {
    throw new RangeError(`${type}: epoch ${epoch} cannot be sent`);
  }
  if (!Number.isInteger(ids.generation) || ids.generation < 0 || ids.generation >= U32) {
    throw new RangeError(`${type}: generation ${ids.generation} does not fit in 32 bits`);
  }
  const view = new DataView(target.buffer, target.byteOffset, HEADER_BYTES);
  view.setUint32(0, MAGIC);
  view.setUint8(4, FRAMING_VERSION);
  view.setUint8(5, rule.code);
  view.setUint16(6, 0);
  target.set(ids.vmId, 8);
  view.setUint32(24, ids.generation);
  view.setUint32(28, payloadBytes);
  view.setUint32(32, Math.floor(epoch / U32));
  view.setUint32(36, epoch % U32);
  view.setUint32(40, payloadCrc);
  view.setUint32(44, crc32(target.subarray(0, 44)));
}

/**
 * Reads and checks the first 48 bytes of `source`; `vmId` in the answer is a copy.
 * @param receiver the side that reads: a message meant for the other side is refused
 * @throws ProtocolError
 */
export function readHeader(source: Uint8Array, receiver: Role): Header {
  const view = new DataView(source.buffer, source.byteOffset, HEADER_BYTES);
  const magic = view.getUint32(0);
  if (magic !== MAGIC) throw new ProtocolError("bad-magic", "magic", hex(magic), `${hex(MAGIC)} ("RMUS")`);
  const headerCrc = view.getUint32(44);
  const actualCrc = crc32(source.subarray(0, 44));
  // The version comes before the checksum: a later version may place the checksum elsewhere.
  const version = view.getUint8(4);
  if (version !== FRAMING_VERSION) {
    throw new ProtocolError(
      "bad-version",
      "version",
      version,
      `${FRAMING_VERSION}; run the same Remus on both hosts`,
    );
  }
  if (headerCrc !== actualCrc) {
    throw new ProtocolError("bad-header-checksum", "header checksum", hex(headerCrc), hex(actualCrc));
  }
  const reserved = view.getUint16(6);
  if (reserved !== 0) throw new ProtocolError("bad-reserved", "reserved", hex(reserved), "0");
  const code = view.getUint8(5);
  const type = TYPE_OF_CODE[code];
  if (type === undefined)
    throw new ProtocolError("unknown-type", "type", code, `1..${TYPE_OF_CODE.length - 1}`);
  const rule = MESSAGES[type];
  if (rule.to !== "both" && rule.to !== receiver) {
    throw new ProtocolError("wrong-direction", "type", type, `a message that a ${receiver} may receive`);
  }
  const payloadBytes = view.getUint32(28);
  if (payloadBytes < rule.min || payloadBytes > rule.max) {
    const expected = `${rule.min}..${rule.max} bytes`;
    throw new ProtocolError("bad-length", `${type} payload length`, payloadBytes, expected);
  }
  const epoch = view.getUint32(32) * U32 + view.getUint32(36);
  if (!Number.isSafeInteger(epoch))
    throw new ProtocolError("bad-epoch", `${type} epoch`, epoch, "below 2^53");
  if (!rule.epoch && epoch !== 0) throw new ProtocolError("bad-epoch", `${type} epoch`, epoch, "0");
  return {
    type,
    vmId: source.slice(8, 24),
    generation: view.getUint32(24),
    epoch,
    payloadBytes,
    payloadCrc: view.getUint32(40),
  };
}

const TYPE_OF_CODE: readonly (MessageType | undefined)[] = (() => {
  const table: (MessageType | undefined)[] = [undefined];
  for (const type of Object.keys(MESSAGES) as MessageType[]) table[MESSAGES[type].code] = type;
  return table;
})();
