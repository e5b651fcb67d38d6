/**
 * What this host is to the VM, and what its disk images are, in a small file that survives a crash: written
 * whole beside its place, synced, and moved in. What a guardian does when it starts follows from it
 * (core/start-up.ts): so an image that is somebody's copy, and perhaps half of one, is not started.
 */
import { mkdir, open, readFile, rename } from "node:fs/promises";
import { dirname } from "node:path";
import type { EpochId, Generation } from "../core/words.ts";
import { whatToDo } from "../os/file-trouble.ts";

export interface DiskState {
  readonly version: 1;
  /** UUID of the VM. */
  readonly vm: string;
  readonly generation: Generation;
  /**
   * `owner`: the VM runs here, or ran here last. `syncing`: a first sync or resync is coming in, the images
   * are a mixture. `replica`: they follow the primary's, and while they do, may hold a part of a checkpoint.
   */
  readonly images: "owner" | "syncing" | "replica";
  /** The protection in which they last were what they are: both hosts note the same one. */
  readonly session?: string;
  /** Of a replica: everything up to this checkpoint is on stable storage here. */
  readonly durableEpoch?: EpochId;
  /**
   * Of an owner: it gave the VM away in order, with nothing written after the session's last checkpoint, and
   * all of it on stable storage.
   */
  readonly handedOver?: boolean;
  /** Of an owner: somebody has had the VM protected, and nobody has said stop since. */
  readonly wanted?: boolean;
}

/** The file is there and cannot be used, or cannot be written. */
export class StateFileError extends Error {}

export class StateFile {
  readonly path: string;
  private readonly vm: string;
  /** As it is on stable storage. */
  private last: DiskState | undefined;
  /** The latest generation of which anything was to be noted. */
  private newest: Generation;
  private writing: Promise<void> = Promise.resolve();

  private constructor(path: string, vm: string, last: DiskState | undefined) {
    this.path = path;
    this.vm = vm;
    this.last = last;
    this.newest = last?.generation ?? 0;
  }

  /** Reads the file, if there is one. @throws StateFileError when it is of another VM, or unreadable */
  static async open(path: string, vm: string): Promise<StateFile> {
    let text: string;
    try {
      text = await readFile(path, "utf8");
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === "ENOENT") return new StateFile(path, vm, undefined);
      throw new StateFileError(`${path} cannot be read: ${(cause as Error).message}`, { cause });
    }
    return new StateFile(path, vm, parse(path, text, vm));
  }

  /** What was noted last, and is on stable storage. */
  get state(): DiskState | undefined {
    return this.last;
  }

  /**
   * Resolves when it is on stable storage. What was noted of a later generation stands: somebody who is late,
   * of a role or a session that is over, does not take it back. @throws StateFileError then
   */
  write(state: Omit<DiskState, "version" | "vm">): Promise<void> {
    const { newest } = this;
    if (state.generation < newest) {
      const late = `"${state.images}" of generation ${state.generation} is not noted: generation ${newest} is`;
      return Promise.reject(new StateFileError(`${this.path}: ${late}`));
    }
    const next: DiskState = { version: 1, vm: this.vm, ...state };
    this.newest = state.generation;
    const after = async () => {
      try {
        await put(this.path, `${JSON.stringify(next, null, 2)}\n`);
      } catch (cause) {
        const text = `${this.path} cannot be written: ${(cause as Error).message}; ${whatToDo(cause as Error)}`;
        throw new StateFileError(text, { cause });
      }
      this.last = next;
    };
    const done = this.writing.then(after, after);
    this.writing = done;
    return done;
  }
}

async function put(path: string, text: string): Promise<void> {
  const folder = dirname(path);
  await mkdir(folder, { recursive: true });
  const file = await open(`${path}.new`, "w", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
  const directory = await open(folder, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function parse(path: string, text: string, vm: string): DiskState {
  const todo = "mend it, or remove it once you know which host has the VM's latest disk";
  let state: DiskState | null;
  try {
    state = JSON.parse(text) as DiskState | null;
  } catch (cause) {
    throw new StateFileError(`${path} is no JSON; ${todo}`, { cause });
  }
  const right =
    state?.version === 1 &&
    Number.isSafeInteger(state.generation) &&
    ["owner", "syncing", "replica"].includes(state.images);
  if (state === null || !right) throw new StateFileError(`${path} is not a state file of version 1; ${todo}`);
  if (state.vm !== vm)
    throw new StateFileError(
      `${path} is about VM ${state.vm}, and this is ${vm}; give each VM a name of its own, or remove it`,
    );
  return state;
}
