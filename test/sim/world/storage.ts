/**
 * What a host has on its disks: files, the VM's disk image, and the write-intent logs. What was not put on
 * stable storage may be there after a power failure, or not, or in part.
 */
import type { Random } from "./random.ts";

interface Inode {
  /** As the host sees it. */
  text: string;
  /** As it is on stable storage; undefined if nothing of it is. */
  safe: string | undefined;
}

export class SimFiles {
  private names = new Map<string, Inode>();
  private safeNames = new Map<string, Inode>();

  read(path: string): string | undefined {
    return this.names.get(path)?.text;
  }

  /** Opens for writing, from empty. */
  create(path: string): Inode {
    const inode: Inode = { text: "", safe: undefined };
    this.names.set(path, inode);
    return inode;
  }

  /** What would be found after a power failure that keeps no more than it must. */
  readSafe(path: string): string | undefined {
    return this.safeNames.get(path)?.safe;
  }

  rename(from: string, to: string): void {
    const inode = this.names.get(from);
    if (inode === undefined) throw Object.assign(new Error(`ENOENT: rename ${from}`), { code: "ENOENT" });
    this.names.delete(from);
    this.names.set(to, inode);
  }

  remove(path: string): void {
    this.names.delete(path);
  }

  sync(inode: Inode): void {
    inode.safe = inode.text;
  }

  /** All names of the host's: there is one folder that matters. */
  syncFolder(): void {
    this.safeNames = new Map(this.names);
  }

  /** The host is installed anew. */
  clear(): void {
    this.names = new Map();
    this.safeNames = new Map();
  }

  powerFails(random: Random): void {
    // A rename is kept or not, whole. Contents that were not synced may be torn.
    const kept = random.chance(0.5) ? this.names : this.safeNames;
    const names = new Map<string, Inode>();
    for (const [path, inode] of kept) {
      if (inode.safe === inode.text) names.set(path, inode);
      else {
        const cut = inode.text.slice(0, random.below(inode.text.length + 1));
        const text = random.pick([inode.safe ?? "", inode.text, cut]);
        names.set(path, { text, safe: text });
      }
    }
    this.names = names;
    this.safeNames = new Map(names);
  }
}

/**
 * One write-intent log: src/disk/intent-log.ts keeps it in a file, with every bit synced before it counts.
 */
export interface IntentLog {
  readonly path: string;
  readonly session: string;
  readonly blocks: Set<number>;
}

export const BLOCK_BYTES = 4096;
export const BLOCKS = 64;

/** The image of the VM's disk. A block is a number: what a real one would be the hash of. */
export class SimDisk {
  blocks: number[] = new Array(BLOCKS).fill(0);
  logs: IntentLog[] = [];
  private safe: number[] = new Array(BLOCKS).fill(0);
  /** Counts writes; for each block, which one is on the disk, and which on stable storage. */
  private count = 0;
  private written: number[] = new Array(BLOCKS).fill(0);
  private kept: number[] = new Array(BLOCKS).fill(0);

  write(block: number, value: number): void {
    this.blocks[block] = value;
    this.written[block] = ++this.count;
  }

  /** At once. */
  flush(): void {
    this.beginFlush()();
  }

  /** What is returned ends the flush: it keeps what was written before it began, and no more. */
  beginFlush(): () => void {
    const { blocks, written } = this;
    const values = [...blocks];
    const marks = [...written];
    return () => {
      for (let i = 0; i < BLOCKS; i++) {
        if (marks[i]! <= this.kept[i]!) continue;
        this.safe[i] = values[i]!;
        this.kept[i] = marks[i]!;
      }
    };
  }

  /** A blank one is put in its place. */
  clear(): void {
    for (let i = 0; i < BLOCKS; i++) this.write(i, 0);
    this.flush();
    this.logs = [];
  }

  /** What a power failure at this instant would leave, if it keeps no more than it must. */
  get onStableStorage(): readonly number[] {
    return this.safe;
  }

  powerFails(random: Random): void {
    for (let i = 0; i < BLOCKS; i++) if (random.chance(0.5)) this.safe[i] = this.blocks[i]!;
    this.blocks = [...this.safe];
    this.kept = [...this.written];
  }
}
