/**
 * Locks with names, in one folder: a small file for each, locked by the kernel for as long as its holder
 * lives, and with a few words in it that say who that is. The descriptors close on exec, so a child never
 * holds what its parent has lost.
 */
import {
  closeSync,
  constants,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { lockWhole } from "./file-lock.ts";

/**
 * Whoever takes or gives back holds this one meanwhile, so nobody meets a file that is just being made or
 * removed.
 */
const TURN = ".turn";
const TURN_PATIENCE_MS = 5_000;
const { O_CREAT, O_NOFOLLOW, O_RDWR } = constants;

/** Somebody else has one of the names. */
export interface Taken {
  readonly name: string;
  /** What the holder wrote of itself. */
  readonly by: string;
}

export class LockFolder {
  private readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /**
   * Makes it, for this user alone, if need be. @throws Error when it is another user's, or others may write
   * to it
   */
  static open(path: string): LockFolder {
    mkdirSync(dirname(path), { recursive: true });
    mkdirSync(path, { recursive: true, mode: 0o700 });
    const { mode, uid } = statSync(path);
    if (uid !== process.getuid!()) throw new Error(`${path} belongs to user ${uid}`);
    if ((mode & 0o022) !== 0) throw new Error(`others may write to ${path}`);
    return new LockFolder(path);
  }

  /**
   * Takes all of the names, or none, and then tells which are taken. Names that nobody holds any more are
   * removed.
   */
  async take(names: readonly string[], by: string): Promise<HeldLocks | readonly Taken[]> {
    const turn = await this.turn();
    const held = new Map<string, number>();
    const taken: Taken[] = [];
    try {
      for (const name of names) {
        const fd = this.lock(name);
        if (fd === undefined) taken.push({ name, by: readFileSync(join(this.path, name), "utf8") });
        else held.set(name, fd);
      }
      if (taken.length > 0) {
        this.remove(held);
        return taken;
      }
      for (const fd of held.values()) {
        ftruncateSync(fd);
        writeSync(fd, by, 0);
      }
      this.sweep(held);
      return new HeldLocks(() => this.giveBack(held));
    } catch (error) {
      this.remove(held);
      throw error;
    } finally {
      closeSync(turn);
    }
  }

  private async giveBack(held: ReadonlyMap<string, number>): Promise<void> {
    // Somebody has removed the folder: there are no files any more, and nobody to wait for.
    const turn = existsSync(this.path) ? await this.turn() : undefined;
    this.remove(held);
    if (turn !== undefined) closeSync(turn);
  }

  /** The descriptor that holds the lock; undefined if another one does. */
  private lock(name: string): number | undefined {
    const fd = openSync(join(this.path, name), O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
    try {
      if (lockWhole(fd)) return fd;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    closeSync(fd);
    return undefined;
  }

  private async turn(): Promise<number> {
    for (const end = performance.now() + TURN_PATIENCE_MS; ; await pause(10)) {
      const fd = this.lock(TURN);
      if (fd !== undefined) return fd;
      if (performance.now() > end)
        throw new Error(`somebody keeps ${join(this.path, TURN)} locked for ${TURN_PATIENCE_MS} ms`);
    }
  }

  private sweep(held: ReadonlyMap<string, number>): void {
    const left = readdirSync(this.path).filter((name) => name !== TURN && !held.has(name));
    for (const name of left) {
      const fd = this.lock(name);
      if (fd !== undefined) this.remove(new Map([[name, fd]]));
    }
  }

  private remove(held: ReadonlyMap<string, number>): void {
    for (const [name, fd] of held) {
      rmSync(join(this.path, name), { force: true });
      closeSync(fd);
    }
  }
}

/** They end with the process, however that ends. */
export class HeldLocks {
  private readonly undo: () => Promise<void>;

  constructor(undo: () => Promise<void>) {
    this.undo = undo;
  }

  /** Removes their files, too. */
  giveBack(): Promise<void> {
    return this.undo();
  }
}
