/** A request as the server reads it, and whether it may be carried out. */
import { COMMAND, COMMAND_FLAG, type NbdErrno } from "./nbd.ts";
import type { NbdExport } from "./nbd-export.ts";

/**
 * A request that was checked: it lies within the export, is aligned, not empty (but for a flush), and
 * allowed.
 */
export interface NbdRequest {
  readonly kind: "read" | "write" | "zero" | "trim" | "flush" | "cache" | "block-status";
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
  /** Answer only when what it wrote is on stable storage. */
  readonly fua: boolean;
  /** Of a zero: the space must stay allocated. */
  readonly noHole: boolean;
  /** Of a zero: answer ENOTSUP unless it is quicker than writing. */
  readonly fast: boolean;
  /** Of a block-status: answer with one extent, no longer than the request. */
  readonly oneExtent: boolean;
}

/** What the 28 bytes say. `offset` is not exact above 2^53, where no export has anything. */
export interface RequestHeader {
  readonly flags: number;
  readonly command: number;
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
}

/** Why a request is refused. `message` is a sentence. */
export interface Refusal {
  readonly error: NbdErrno;
  readonly message: string;
}

/** What was agreed on in the handshake. */
export interface Agreement {
  readonly export: NbdExport;
  readonly structured: boolean;
  readonly blockStatus: boolean;
}

/** The magic is not looked at. */
export function readRequestHeader(bytes: Buffer): RequestHeader {
  return {
    flags: bytes.readUInt16BE(4),
    command: bytes.readUInt16BE(6),
    cookie: bytes.readBigUInt64BE(8),
    offset: bytes.readUInt32BE(16) * 2 ** 32 + bytes.readUInt32BE(20),
    length: bytes.readUInt32BE(24),
  };
}

const KIND_OF_COMMAND: ReadonlyMap<number, NbdRequest["kind"]> = new Map([
  [COMMAND.read, "read"],
  [COMMAND.write, "write"],
  [COMMAND.flush, "flush"],
  [COMMAND.trim, "trim"],
  [COMMAND.cache, "cache"],
  [COMMAND.zero, "zero"],
  [COMMAND.blockStatus, "block-status"],
]);

export function checkRequest(header: RequestHeader, agreement: Agreement): NbdRequest | Refusal {
  const { flags, command, cookie, offset, length } = header;
  const kind = KIND_OF_COMMAND.get(command);
  if (kind === undefined) return refused("EINVAL", `command ${command} is not known`);
  const refusal = flagRefusal(kind, flags, agreement) ?? rangeRefusal(kind, offset, length, agreement);
  if (refusal !== undefined) return refusal;
  return {
    kind,
    cookie,
    offset,
    length,
    fua: (flags & COMMAND_FLAG.fua) !== 0,
    noHole: (flags & COMMAND_FLAG.noHole) !== 0,
    fast: (flags & COMMAND_FLAG.fast) !== 0,
    oneExtent: (flags & COMMAND_FLAG.oneExtent) !== 0,
  };
}

function flagRefusal(kind: NbdRequest["kind"], flags: number, agreement: Agreement): Refusal | undefined {
  const { export: one, structured, blockStatus } = agreement;
  let allowed: number = COMMAND_FLAG.fua;
  if (kind === "zero") allowed |= COMMAND_FLAG.noHole | (one.fastZero ? COMMAND_FLAG.fast : 0);
  if (kind === "read" && structured) allowed |= COMMAND_FLAG.unfragmented;
  if (kind === "block-status") allowed |= COMMAND_FLAG.oneExtent;
  if ((flags & ~allowed) !== 0)
    return refused("EINVAL", `flags 0x${flags.toString(16)} are not all allowed for ${kind}`);
  if (kind === "cache" && !one.cache) return refused("EINVAL", "cache is not offered");
  if (kind === "block-status" && !blockStatus)
    return refused("EINVAL", "block-status was not agreed on in the handshake");
  return undefined;
}

function rangeRefusal(
  kind: NbdRequest["kind"],
  offset: number,
  length: number,
  { export: one, structured }: Agreement,
): Refusal | undefined {
  if (kind === "flush")
    return offset === 0 && length === 0
      ? undefined
      : refused("EINVAL", "flush has neither offset nor length");
  const changes = kind === "write" || kind === "zero" || kind === "trim";
  if (changes && one.readOnly) return refused("EPERM", "the export is read-only");
  const where = `${kind} of ${length} bytes at ${offset}`;
  if (length === 0) return refused("EINVAL", `${where}: nothing to do`);
  if (offset > one.bytes - length)
    return refused(
      kind === "write" || kind === "zero" ? "ENOSPC" : "EINVAL",
      `${where}: the export ends at ${one.bytes}`,
    );
  if (offset % one.minimumBlock !== 0 || length % one.minimumBlock !== 0)
    return refused("EINVAL", `${where}: offset and length must be multiples of ${one.minimumBlock}`);
  if ((kind === "read" || kind === "write") && length > one.maximumBlock)
    return refused(
      kind === "read" && structured ? "EOVERFLOW" : "EINVAL",
      `${where}: ${one.maximumBlock} bytes is the most`,
    );
  return undefined;
}

function refused(error: NbdErrno, message: string): Refusal {
  return { error, message };
}
