/**
 * The stream a standby loads at failover, composed from what the backup keeps: the primary's header, the RAM
 * block list, the pages of the blocks that are not in the RAM image file, and the device state. The block
 * that is in the file is named in the list but sends no pages: the loader never clears RAM.
 */
import { PAGE_BYTES, type RamBlock } from "./replication.ts";

const RAM_SECTION_ID = 2;
const RAM_SECTION_VERSION = 4;
const FLAG_MEM_SIZE = 0x04;
const FLAG_PAGE = 0x08;
const FLAG_EOS = 0x10;

/** A RAM block that the standby does not have in its image file, with its whole contents. */
export interface SideBlock {
  readonly block: RamBlock;
  /** Whole pages: at least `block.bytes` long. */
  readonly contents: Uint8Array;
}

export interface ComposedFrom {
  /** Magic, version and configuration of the primary's stream. */
  readonly header: Uint8Array;
  readonly blocks: readonly RamBlock[];
  readonly side: readonly SideBlock[];
  /** Full device sections with their final end-of-file byte. */
  readonly device: Uint8Array;
}

/** The parts of the stream, in order, to be written one after another. */
export function composeStream(from: ComposedFrom): Uint8Array[] {
  return [
    from.header,
    sectionStart(),
    blockList(from.blocks),
    endMark(),
    Uint8Array.of(0x03, ...be32(RAM_SECTION_ID)),
    ...from.side.flatMap(pages),
    endMark(),
    from.device,
    // An empty description: the loader reads it and looks no further.
    Uint8Array.of(0x06, ...be32(2), 0x7b, 0x7d),
  ];
}

function sectionStart(): Uint8Array {
  const name = Buffer.from("ram", "latin1");
  return Uint8Array.of(
    0x01,
    ...be32(RAM_SECTION_ID),
    name.length,
    ...name,
    ...be32(0),
    ...be32(RAM_SECTION_VERSION),
  );
}

function blockList(blocks: readonly RamBlock[]): Uint8Array {
  const total = blocks.reduce((sum, { bytes }) => sum + bytes, 0);
  const parts = [be64(total + FLAG_MEM_SIZE)];
  for (const { name, bytes } of blocks) parts.push(blockName(name), be64(bytes));
  return Buffer.concat(parts);
}

/** Every page, the zero ones too: under `-incoming` a block may hold something else. */
function pages({ block, contents }: SideBlock): Uint8Array[] {
  const parts: Uint8Array[] = [];
  for (let offset = 0; offset < block.bytes; offset += PAGE_BYTES)
    parts.push(
      be64(offset + FLAG_PAGE),
      blockName(block.name),
      contents.subarray(offset, offset + PAGE_BYTES),
    );
  return parts;
}

function blockName(name: string): Uint8Array {
  const bytes = Buffer.from(name, "latin1");
  return Uint8Array.of(bytes.length, ...bytes);
}

function endMark(): Uint8Array {
  return Uint8Array.of(...be64(FLAG_EOS), 0x7e, ...be32(RAM_SECTION_ID));
}

function be32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}

function be64(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
  return bytes;
}
