// Pieces of QEMU's migration stream, written down by hand from docs/specs/qemu-stream.md, and a sink that
// remembers what a scanner saw.

import { MigrationScanner, type PageSink } from "../../src/codec/migration-stream.ts";
import { PAGE_BYTES } from "../../src/codec/replication.ts";

export const be32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};
export const be64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
};
export const text8 = (text: string): Buffer =>
  Buffer.concat([Buffer.of(text.length), Buffer.from(text, "latin1")]);

export const FLAG = { zero: 2, memSize: 4, page: 8, eos: 0x10, continue: 0x20, xbzrle: 0x40 } as const;
export const RAM_SECTION = 2;

export const header = (machine = "pc-i440fx-7.2"): Buffer =>
  Buffer.concat([
    Buffer.from("QEVM"),
    be32(3),
    Buffer.of(7),
    be32(machine.length),
    Buffer.from(machine, "latin1"),
  ]);
export const command = (code: number, data = ""): Buffer =>
  Buffer.concat([
    Buffer.of(8, code >> 8, code & 255, data.length >> 8, data.length & 255),
    Buffer.from(data),
  ]);
export const start = (name = "ram", version = 4): Buffer =>
  Buffer.concat([Buffer.of(1), be32(RAM_SECTION), text8(name), be32(0), be32(version)]);
export const part = (id = RAM_SECTION): Buffer => Buffer.concat([Buffer.of(2), be32(id)]);
export const end = (id = RAM_SECTION): Buffer => Buffer.concat([Buffer.of(3), be32(id)]);
export const EOS = be64(FLAG.eos);
export const footer = (id = RAM_SECTION): Buffer => Buffer.concat([Buffer.of(0x7e), be32(id)]);
export const EOF = Buffer.of(0);

export const blockList = (blocks: readonly (readonly [name: string, pages: number])[]): Buffer =>
  Buffer.concat([
    be64(blocks.reduce((sum, [, pages]) => sum + pages * PAGE_BYTES, 0) | FLAG.memSize),
    ...blocks.flatMap(([name, pages]) => [text8(name), be64(pages * PAGE_BYTES)]),
  ]);

/** A page whose bytes all follow from `fill`. Without `block`: of the same block as the record before. */
export const page = (block: string | undefined, number: number, fill: number): Buffer =>
  Buffer.concat([
    be64(number * PAGE_BYTES + FLAG.page + (block === undefined ? FLAG.continue : 0)),
    ...(block === undefined ? [] : [text8(block)]),
    Buffer.alloc(PAGE_BYTES, fill),
  ]);
export const zeroPage = (block: string | undefined, number: number): Buffer =>
  Buffer.concat([
    be64(number * PAGE_BYTES + FLAG.zero + (block === undefined ? FLAG.continue : 0)),
    ...(block === undefined ? [] : [text8(block)]),
    Buffer.of(0),
  ]);

export const BLOCKS = [
  ["pc.ram", 512],
  ["0000:00:02.0/vga.vram", 16],
  ["/rom@etc/acpi/tables", 2],
] as const;

/** A first pass up to and with the footer after which device state begins. */
export const FIRST_PASS = Buffer.concat([
  header(),
  command(0x0b),
  start(),
  blockList(BLOCKS),
  EOS,
  footer(),
  part(),
  zeroPage("pc.ram", 0),
  page(undefined, 1, 0xa1),
  page(undefined, 511, 0xa2),
  page("/rom@etc/acpi/tables", 1, 0xa3),
  EOS,
  footer(),
  end(),
  page("pc.ram", 1, 0xa4),
  zeroPage("0000:00:02.0/vga.vram", 15),
  EOS,
  footer(),
]);

/**
 * The RAM part of a checkpoint, from behind VMSTATE_SEND to its end-of-file byte. Its first record leans on
 * the block before.
 */
export const CHECKPOINT = Buffer.concat([
  command(0x0b),
  part(),
  page(undefined, 3, 0xb1),
  page("pc.ram", 7, 0xb2),
  EOS,
  footer(),
  end(),
  zeroPage(undefined, 8),
  EOS,
  footer(),
  EOF,
]);

/** What a scanner reported, in words. Pages are read from the bytes that were being scanned. */
export class Seen implements PageSink {
  readonly words: string[] = [];
  bytes: Uint8Array = new Uint8Array(0);

  page(block: number, pageNumber: number, position: number): void {
    const [first, last] = [this.bytes[position], this.bytes[position + PAGE_BYTES - 1]];
    this.words.push(`${block}:${pageNumber} ${first?.toString(16)}..${last?.toString(16)}`);
  }

  zeroPage(block: number, pageNumber: number): void {
    this.words.push(`${block}:${pageNumber} zero`);
  }
}

/** A scanner that has taken the first pass. */
export function afterFirstPass(): { scanner: MigrationScanner; seen: Seen } {
  const seen = new Seen();
  const scanner = new MigrationScanner(seen);
  scanAll(scanner, seen, FIRST_PASS);
  seen.words.length = 0;
  return { scanner, seen };
}

export function scanAll(scanner: MigrationScanner, seen: Seen, bytes: Uint8Array, from = 0): number {
  seen.bytes = bytes;
  return scanner.scan(bytes, from, bytes.length);
}
