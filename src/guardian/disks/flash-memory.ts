/**
 * The guest's flash memory with its UEFI variables. QEMU keeps it twice: in a file, and in a block of memory
 * that it does not mark as dirty when the guest writes (hw/block/pflash_cfi01.c). So checkpoints after the
 * first carry none of those writes. The file is replicated as a disk and is at the same checkpoint as the
 * RAM; a standby is given the block from there. When its VM runs, it writes the block to its file, which
 * changes nothing then.
 */
import { readFileSync } from "node:fs";
import type { SideBlock } from "../../codec/migration-compose.ts";

/** The second flash device of a PC; the first holds the firmware's code. */
const FLASH_BLOCK = "system.flash1";

/** @param file the variable store's, whose writes are committed; undefined: the VM has none */
export function withFlash(side: readonly SideBlock[], file: string | undefined): SideBlock[] {
  if (file === undefined) return [...side];
  if (!side.some(({ block }) => block.name === FLASH_BLOCK))
    throw new Error(`the primary's memory has no block ${FLASH_BLOCK}, and vm.uefi is set here`);
  const contents = readFileSync(file);
  return side.map((one) => {
    if (one.block.name !== FLASH_BLOCK) return one;
    if (contents.length !== one.block.bytes)
      throw new Error(
        `the variable store ${file} has ${contents.length} bytes, and the guest's flash memory ${one.block.bytes}`,
      );
    return { block: one.block, contents };
  });
}
