/**
 * The backup's copies of the VM's memory: the RAM image, a file that the standby has mapped, and beside it
 * every other RAM block in our own memory, since under `-incoming` those come from the composed stream alone.
 */
import { rmSync } from "node:fs";
import { type Layout, PAGE_BYTES, PAGE_ZERO, type PageList, type RamBlock } from "../codec/replication.ts";
import type { Mapping } from "../os/mapping.ts";
import { makeRamFile } from "./ram-file.ts";
import { RamSnapshot } from "./ram-snapshot.ts";

/**
 * Blocks are written through windows: Buffer.copy cuts the place that it copies to to 32 bits when it copies
 * a part of its source (seen in Node 24). A page never lies in two of them.
 */
const WINDOW_BYTES = 2 ** 30;
const PAGES_PER_WINDOW = WINDOW_BYTES / PAGE_BYTES;

/** Video memory and ROMs of an ordinary VM take some 20 MiB. */
const MOST_SIDE_BYTES = 1 << 30;

/** The primary's memory is not of the shape that this backup has room for. */
export class LayoutError extends Error {}

export class BackupImages {
  readonly path: string;
  private readonly fileBlock: string;
  private readonly ram: Mapping;
  /**
   * One byte a page of the file: whether it was ever written. An untouched page is zero and takes no memory.
   */
  private readonly touched: Uint8Array;
  private layout: Layout | undefined;
  private copy: RamSnapshot | undefined;
  private targets: (readonly Uint8Array[] | undefined)[] = [];
  private readonly side = new Map<number, Uint8Array>();
  private fileBlockId = -1;

  private constructor(path: string, fileBlock: string, ram: Mapping) {
    this.path = path;
    this.fileBlock = fileBlock;
    this.ram = ram;
    this.touched = new Uint8Array(ram.bytes.length / PAGE_BYTES);
  }

  /**
   * Makes an empty image file of `bytes`, with its space reserved.
   * @param fileBlock name of the RAM block that the file holds
   * @throws RamFileError
   */
  static async create(path: string, fileBlock: string, bytes: number): Promise<BackupImages> {
    return BackupImages.over(path, fileBlock, await makeRamFile(path, bytes));
  }

  /** @param ram the file at `path`, mapped, with nothing but zeros in it */
  static over(path: string, fileBlock: string, ram: Mapping): BackupImages {
    return new BackupImages(path, fileBlock, ram);
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
    this.side.clear();
    for (const { id, bytes } of layout.blocks) {
      const memory = id === inFile.id ? this.ram.bytes : new Uint8Array(bytes);
      if (id !== inFile.id) this.side.set(id, memory);
      this.targets[id] = windows(memory);
    }
  }

  /** Puts pages into the images. Their bounds were checked against the layout when they came in. */
  write(pages: PageList): void {
    // Buffer.copy: no view is made for each page.
    const source = Buffer.from(pages.source.buffer, pages.source.byteOffset, pages.source.byteLength);
    for (let entry = 0; entry < pages.count; entry++) {
      const pageNumber = pages.pageNumbers[entry]!;
      const target = this.targets[pages.blockIds[entry]!]![Math.floor(pageNumber / PAGES_PER_WINDOW)]!;
      const inFile = pages.blockIds[entry] === this.fileBlockId;
      const offset = (pageNumber % PAGES_PER_WINDOW) * PAGE_BYTES;
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
      .map((block) => ({ block, contents: this.side.get(block.id)! }));
    return { header, blocks, side };
  }

  /**
   * Begins a copy of the RAM file's contents as they are now, into `target`, which is zeroed and as large;
   * one at a time. Pages that change are copied first from now on; for the others call `copyOn`, until
   * `endCopy`.
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

function windows(memory: Uint8Array): Uint8Array[] {
  const count = Math.ceil(memory.length / WINDOW_BYTES);
  return Array.from({ length: count }, (_, index) =>
    memory.subarray(index * WINDOW_BYTES, (index + 1) * WINDOW_BYTES),
  );
}
