/**
 * The backup's copies of the VM's memory: the RAM image, a file that the standby has mapped, and beside it every other RAM block
 * in our own memory, since under `-incoming` those come from the composed stream alone.
 */
import { closeSync, ftruncateSync, mkdirSync, openSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { type Layout, PAGE_BYTES, PAGE_ZERO, type PageList, type RamBlock } from "../codec/replication.ts";
import { Mapping } from "../os/mapping.ts";
import { RamSnapshot } from "./ram-snapshot.ts";

/** Video memory and ROMs of an ordinary VM take some 20 MiB. */
const MOST_SIDE_BYTES = 1 << 30;

/** The primary's memory is not of the shape that this backup has room for. */
export class LayoutError extends Error {}

export class BackupImages {
  readonly path: string;
  private readonly fileBlock: string;
  private readonly ram: Mapping;
  /** One byte a page of the file: whether it was ever written. An untouched page is zero and takes no memory. */
  private readonly touched: Uint8Array;
  private layout: Layout | undefined;
  private copy: RamSnapshot | undefined;
  private targets: (Uint8Array | undefined)[] = [];
  private fileBlockId = -1;

  private constructor(path: string, fileBlock: string, ram: Mapping) {
    this.path = path;
    this.fileBlock = fileBlock;
    this.ram = ram;
    this.touched = new Uint8Array(ram.bytes.length / PAGE_BYTES);
  }

  /**
   * Makes an empty image file of `bytes`.
   * @param fileBlock name of the RAM block that the file holds
   */
  static create(path: string, fileBlock: string, bytes: number): BackupImages {
    return new BackupImages(path, fileBlock, emptyRamFile(path, bytes));
  }

  /** A session begins: its blocks. Fails if they do not fit. */
  begin(layout: Layout): void {
    const inFile = layout.blocks.find(({ name }) => name === this.fileBlock);
    if (inFile?.bytes !== this.ram.bytes.length)
      throw new LayoutError(
        `the primary's ${this.fileBlock} has ${inFile?.bytes ?? "no"} bytes, the RAM image here ${this.ram.bytes.length}; ` +
          "give both hosts the same vm.memoryMiB and accelerator",
      );
    const sideBytes = layout.blocks.reduce((sum, { bytes }) => sum + bytes, 0) - inFile.bytes;
    if (sideBytes > MOST_SIDE_BYTES)
      throw new LayoutError(
        `the primary has ${sideBytes} bytes of memory beside its RAM; at most ${MOST_SIDE_BYTES}`,
      );
    this.layout = layout;
    this.fileBlockId = inFile.id;
    this.targets = [];
    for (const { id, bytes } of layout.blocks)
      this.targets[id] = id === inFile.id ? this.ram.bytes : new Uint8Array(bytes);
  }

  /** Puts pages into the images. Their bounds were checked against the layout when they came in. */
  write(pages: PageList): void {
    // Buffer.copy: no view is made for each page.
    const source = Buffer.from(pages.source.buffer, pages.source.byteOffset, pages.source.byteLength);
    for (let entry = 0; entry < pages.count; entry++) {
      const target = this.targets[pages.blockIds[entry]!]!;
      const pageNumber = pages.pageNumbers[entry]!;
      const inFile = pages.blockIds[entry] === this.fileBlockId;
      const offset = pageNumber * PAGE_BYTES;
      if (inFile) this.copy?.keep(pageNumber);
      if (pages.encodings[entry] === PAGE_ZERO) {
        if (!inFile || this.touched[pageNumber] === 1) target.fill(0, offset, offset + PAGE_BYTES);
      } else {
        const position = pages.positions[entry]!;
        source.copy(target, offset, position, position + PAGE_BYTES);
        if (inFile) this.touched[pageNumber] = 1;
      }
    }
  }

  /** Size of the RAM file. */
  get ramBytes(): number {
    return this.ram.bytes.length;
  }

  /** What a composed stream needs of the memory. */
  composition(): {
    header: Uint8Array;
    blocks: readonly RamBlock[];
    side: { block: RamBlock; contents: Uint8Array }[];
  } {
    if (this.layout === undefined) throw new Error("the images hold nothing yet");
    const { header, blocks } = this.layout;
    const side = blocks
      .filter(({ id }) => id !== this.fileBlockId)
      .map((block) => ({ block, contents: this.targets[block.id]! }));
    return { header, blocks, side };
  }

  /**
   * Begins a copy of the RAM file's contents as they are now, into `target`, which is zeroed and as large; one at a time. Pages that change are
   * copied first from now on; for the others call `copyOn`, until `endCopy`.
   */
  beginCopy(target: Uint8Array): RamSnapshot {
    this.copy = new RamSnapshot(this.ram.bytes, this.touched, target);
    return this.copy;
  }

  /** No page is copied any more. */
  endCopy(): void {
    this.copy = undefined;
  }

  /** Forgets the mapping and removes the file. A standby that runs from it keeps it until it ends. */
  discard(): void {
    this.ram.close();
    rmSync(this.path, { force: true });
  }
}

/** Makes a file of `bytes` zeros for a VM's RAM, in place of one that may be there, and maps it for writing. */
export function emptyRamFile(path: string, bytes: number): Mapping {
  mkdirSync(dirname(path), { recursive: true });
  rmSync(path, { force: true });
  const fd = openSync(path, "wx+", 0o600);
  try {
    ftruncateSync(fd, bytes);
  } finally {
    closeSync(fd);
  }
  return Mapping.file(path, "write");
}
