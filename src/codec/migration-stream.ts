/**
 * QEMU's migration stream, as far as a checkpoint needs it: header, RAM sections, and where device state
 * begins. Format: docs/specs/qemu-stream.md. All integers are big-endian.
 *
 * The scanner walks over bytes in place and copies nothing: pages are reported by their position, so a reader
 * can drain QEMU into a buffer and know at once what it holds. It stops before a record that is not all there
 * yet.
 */
import { PAGE_BYTES, type RamBlock } from "./replication.ts";

const MAGIC = 0x5145564d; // "QEVM"
const VERSION = 3;

const SECTION_END_OF_FILE = 0x00;
const SECTION_START = 0x01;
const SECTION_PART = 0x02;
const SECTION_END = 0x03;
const SECTION_CONFIGURATION = 0x07;
const SECTION_COMMAND = 0x08;
/**
 * QEMU wants to hear from us over the socket that it sends on (QEMU migration/savevm.c,
 * MIG_CMD_OPEN_RETURN_PATH).
 */
const COMMAND_OPEN_RETURN_PATH = 1;
const SUBSECTION = 0x05;
const FOOTER = 0x7e;

const RAM_ZERO = 0x02;
const RAM_MEM_SIZE = 0x04;
const RAM_PAGE = 0x08;
const RAM_EOS = 0x10;
const RAM_CONTINUE = 0x20;
const RAM_FLAGS = 0xfff;

const PAGE_BITS = 12;

/** The longest record that may be cut at the end of a buffer: header, block name, one page. */
export const LONGEST_RECORD_BYTES = 8 + 256 + PAGE_BYTES;
/** A block list or a configuration section longer than this is refused. */
const LONGEST_LIST_BYTES = 64 * 1024;

/** The stream is not what QEMU is known to send. */
export class MigrationStreamError extends Error {
  constructor(detail: string) {
    super(`unexpected migration stream from QEMU: ${detail}`);
    this.name = "MigrationStreamError";
  }
}

/** Where pages are reported. `position` is the first of a page's 4096 bytes in the scanned buffer. */
export interface PageSink {
  page(block: number, pageNumber: number, position: number): void;
  zeroPage(block: number, pageNumber: number): void;
}

/**
 * - `header`: magic, version and configuration come next
 * - `sections`: the type byte of a section
 * - `records`: RAM records, up to an end mark
 * - `footer`: the footer of a RAM section
 * - `devices`: the first pass is over; what follows is device state, of no stated length
 * - `end`: the end-of-file byte of a checkpoint's RAM part was taken
 */
export type ScannerState = "header" | "sections" | "records" | "footer" | "devices" | "end";

export class MigrationScanner {
  state: ScannerState = "header";
  /** In order of appearance, which gives them their ids; filled by the first RAM section. */
  readonly blocks: RamBlock[] = [];
  /** Magic, version and configuration section, as sent. */
  header: Uint8Array = new Uint8Array(0);
  /** QEMU has opened a return path; it must be shut before COLO's messages begin (colo.ts). */
  returnPath = false;

  private readonly sink: PageSink;
  private readonly blockIds = new Map<string, number>();
  private firstPass = true;
  private ramSection = -1;
  private lastSection = false;
  private block = -1;

  constructor(sink: PageSink) {
    this.sink = sink;
  }

  /** Makes ready for the RAM part of a checkpoint. The current block carries over, as it does in QEMU. */
  beginCheckpoint(): void {
    this.firstPass = false;
    this.state = "sections";
  }

  /**
   * Walks over `bytes` from `from` up to `to` and returns the position of the first byte not taken: a record
   * that is not whole yet, device state, or what follows the end. Call again with the same bytes and more
   * behind them.
   */
  scan(bytes: Uint8Array, from: number, to: number): number {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let position = from;
    for (;;) {
      let next: number;
      if (this.state === "records") {
        position = this.records(view, bytes, position, to);
        if ((this.state as ScannerState) === "records") return position;
        continue;
      }
      if (this.state === "sections") next = this.section(view, bytes, position, to);
      else if (this.state === "footer") next = this.footer(view, position, to);
      else if (this.state === "header") next = this.streamHeader(view, bytes, position, to);
      else return position;
      if (next === position) return position;
      position = next;
    }
  }

  /**
   * Magic, version, configuration with its subsections. It ends at the first byte that does not open a
   * subsection.
   */
  private streamHeader(view: DataView, bytes: Uint8Array, from: number, to: number): number {
    if (to - from < 13) return from;
    if (view.getUint32(from) !== MAGIC)
      throw new MigrationStreamError(`magic 0x${hex(view.getUint32(from))} is not QEVM`);
    if (view.getUint32(from + 4) !== VERSION)
      throw new MigrationStreamError(`version ${view.getUint32(from + 4)}, not ${VERSION}`);
    if (bytes[from + 8] !== SECTION_CONFIGURATION)
      throw new MigrationStreamError(`section 0x${hex(bytes[from + 8]!)} where the configuration should be`);
    const nameLength = view.getUint32(from + 9);
    if (nameLength > LONGEST_LIST_BYTES)
      throw new MigrationStreamError(`machine name of ${nameLength} bytes`);
    const position = from + 13 + nameLength;
    for (;;) {
      if (position >= to) return from;
      if (bytes[position] !== SUBSECTION) break;
      // A subsection names no length. None that we know is on for a VM that can be protected.
      throw new MigrationStreamError(
        "a configuration subsection; is a migration capability or -uuid in use?",
      );
    }
    this.header = bytes.slice(from, position);
    this.state = "sections";
    return position;
  }

  private section(view: DataView, bytes: Uint8Array, from: number, to: number): number {
    if (to - from < 1) return from;
    const type = bytes[from]!;
    switch (type) {
      case SECTION_END_OF_FILE:
        if (this.firstPass)
          throw new MigrationStreamError("the first pass ended before its last RAM section");
        this.state = "end";
        return from + 1;
      case SECTION_COMMAND:
        if (to - from < 5 || to - from < 5 + view.getUint16(from + 3)) return from;
        if (view.getUint16(from + 1) === COMMAND_OPEN_RETURN_PATH) this.returnPath = true;
        return from + 5 + view.getUint16(from + 3);
      case SECTION_START:
        return this.sectionStart(view, bytes, from, to);
      case SECTION_PART:
      case SECTION_END: {
        if (to - from < 5) return from;
        const id = view.getUint32(from + 1);
        if (id !== this.ramSection) throw new MigrationStreamError(`section ${id} is not RAM`);
        this.lastSection = type === SECTION_END;
        this.state = "records";
        return from + 5;
      }
      default:
        throw new MigrationStreamError(`section type 0x${hex(type)}`);
    }
  }

  private sectionStart(view: DataView, bytes: Uint8Array, from: number, to: number): number {
    if (to - from < 6) return from;
    const nameLength = bytes[from + 5]!;
    const end = from + 6 + nameLength + 8;
    if (to < end) return from;
    const name = latin1(bytes, from + 6, nameLength);
    if (name !== "ram")
      throw new MigrationStreamError(
        `"${name}" is sent live; only RAM can be replicated. Take the device away`,
      );
    const version = view.getUint32(end - 4);
    if (version !== 4) throw new MigrationStreamError(`RAM section version ${version}, not 4`);
    this.ramSection = view.getUint32(from + 1);
    this.lastSection = false;
    this.state = "records";
    return end;
  }

  private footer(view: DataView, from: number, to: number): number {
    if (to - from < 5) return from;
    if (view.getUint8(from) !== FOOTER || view.getUint32(from + 1) !== this.ramSection)
      throw new MigrationStreamError(`no footer after RAM section ${this.ramSection}`);
    this.state = this.firstPass && this.lastSection ? "devices" : "sections";
    return from + 5;
  }

  /** RAM records up to the end mark. Each starts with be64 `offset | flags`. */
  private records(view: DataView, bytes: Uint8Array, from: number, to: number): number {
    let position = from;
    while (to - position >= 8) {
      const low = view.getUint32(position + 4);
      const flags = low & RAM_FLAGS;
      if (flags === RAM_EOS) {
        this.state = "footer";
        return position + 8;
      }
      if (flags === RAM_MEM_SIZE) {
        const next = this.blockList(view, bytes, position, to);
        if (next === position) return position;
        position = next;
        continue;
      }
      let body = position + 8;
      let block = this.block;
      if ((flags & RAM_CONTINUE) === 0) {
        if (to <= body) return position;
        const nameLength = bytes[body]!;
        body += 1 + nameLength;
        if (to < body) return position;
        block = this.blockNamed(latin1(bytes, body - nameLength, nameLength));
      }
      if (block < 0) throw new MigrationStreamError("a page before any RAM block was named");
      const kind = flags & ~RAM_CONTINUE;
      const pageNumber = view.getUint32(position) * (1 << (32 - PAGE_BITS)) + (low >>> PAGE_BITS);
      if ((pageNumber + 1) * PAGE_BYTES > roundUp(this.blocks[block]!.bytes))
        throw new MigrationStreamError(`page ${pageNumber} outside of RAM block ${this.blocks[block]!.name}`);
      if (kind === RAM_PAGE) {
        if (to < body + PAGE_BYTES) return position;
        this.sink.page(block, pageNumber, body);
        position = body + PAGE_BYTES;
      } else if (kind === RAM_ZERO) {
        if (to < body + 1) return position;
        if (bytes[body] !== 0) throw new MigrationStreamError(`a page filled with 0x${hex(bytes[body]!)}`);
        this.sink.zeroPage(block, pageNumber);
        position = body + 1;
      } else {
        throw new MigrationStreamError(
          `RAM record with flags 0x${hex(flags)}; is xbzrle, compress or another migration capability on?`,
        );
      }
      this.block = block;
    }
    return position;
  }

  private blockList(view: DataView, bytes: Uint8Array, from: number, to: number): number {
    const total = Number(view.getBigUint64(from) & ~BigInt(RAM_FLAGS));
    const found: { name: string; bytes: number }[] = [];
    let position = from + 8;
    for (let sum = 0; sum < total; sum += found.at(-1)!.bytes) {
      if (position - from > LONGEST_LIST_BYTES)
        throw new MigrationStreamError("a RAM block list without an end");
      if (to < position + 1 || to < position + 9 + bytes[position]!) return from;
      const nameLength = bytes[position]!;
      const length = Number(view.getBigUint64(position + 1 + nameLength));
      if (length === 0) throw new MigrationStreamError("a RAM block of no length");
      found.push({ name: latin1(bytes, position + 1, nameLength), bytes: length });
      position += 9 + nameLength;
    }
    this.block = -1;
    this.blocks.length = 0;
    this.blockIds.clear();
    for (const [id, { name, bytes: length }] of found.entries()) {
      this.blocks.push({ id, name, bytes: length });
      this.blockIds.set(name, id);
    }
    return position;
  }

  private blockNamed(name: string): number {
    const id = this.blockIds.get(name);
    if (id === undefined)
      throw new MigrationStreamError(`page of a RAM block "${name}" that was not announced`);
    return id;
  }
}

/**
 * Whether the bytes of a first pass, from the start of device state on, are all there: QEMU falls silent
 * after `00 06 be32 n` and n bytes of JSON. Returns the length of the device state, its final `00` included;
 * or -1.
 */
export function deviceStateLength(tail: Uint8Array): number {
  if (tail.at(-1) !== 0x7d) return -1;
  const view = new DataView(tail.buffer, tail.byteOffset, tail.byteLength);
  for (let at = tail.length - 7; at >= 1; at--) {
    if (tail[at] !== 0x06 || tail[at - 1] !== SECTION_END_OF_FILE || tail[at + 5] !== 0x7b) continue;
    if (view.getUint32(at + 1) === tail.length - at - 5) return at;
  }
  return -1;
}

function latin1(bytes: Uint8Array, from: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(from, from + length));
}

function hex(value: number): string {
  return value.toString(16);
}

/** QEMU's block lengths are multiples of its own page size, but for some ROM blocks of odd length. */
function roundUp(bytes: number): number {
  return Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
}
