/**
 * The witness's memory: one file that only grows (claim-lines.ts). Whoever asks is answered when all that the
 * answer rests on is on stable storage. Questions that come while the file is being written are answered
 * together after the next write.
 */
import { randomUUID } from "node:crypto";
import { type FileHandle, link, open, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import type { Claim } from "../core/arbiter.ts";
import { lockWhole } from "../os/file-lock.ts";
import { type ClaimOfVm, claimLine, headLine, parseLines } from "./claim-lines.ts";

interface Question {
  readonly vm: string;
  /** To be written unless it comes too late; left out by who only reads. */
  readonly claim: Claim | undefined;
  readonly resolve: (newest: Claim | undefined) => void;
  readonly reject: (error: Error) => void;
}

/** Some hundred thousand claims. A VM makes a handful in a year. */
const MOST_BYTES = 64 << 20;
const MOST_AT_ONCE = 1000;

export class ClaimFile {
  readonly path: string;
  /** Bytes of a line whose writing had been cut off, and which is gone now. */
  readonly tornBytes: number;
  private readonly file: FileHandle;
  private readonly newestOf = new Map<string, Claim>();
  private bytes: number;
  private readonly questions: Question[] = [];
  private working: Promise<void> | undefined;
  private checking: Promise<void> | undefined;
  /**
   * After a sync that failed nothing is trusted: what the file holds then is found out by the next process.
   */
  private failure: Error | undefined;
  /** A write had no room, and may have left a part of a line behind the whole ones. */
  private leftover = false;

  private constructor(
    path: string,
    file: FileHandle,
    claims: readonly ClaimOfVm[],
    whole: number,
    torn: number,
  ) {
    this.path = path;
    this.file = file;
    this.bytes = whole;
    this.tornBytes = torn;
    for (const { vm, ...claim } of claims)
      if (claim.generation > (this.newestOf.get(vm)?.generation ?? -1)) this.newestOf.set(vm, claim);
  }

  /**
   * Opens the file for this process alone; with `create` it is made if it is missing.
   *
   * @throws Error with a sentence when it is missing, damaged, or open elsewhere
   */
  static async open(path: string, { create }: { readonly create: boolean }): Promise<ClaimFile> {
    const file = await openOrCreate(path, create);
    try {
      if (!lockWhole(file.fd)) throw new Error(`${path} is in use by another witness; only one may serve it`);
      const contents = await file.readFile();
      const { claims, wholeBytes } = parseLines(contents, path);
      await file.truncate(wholeBytes);
      // A line that was read may be in the page cache only, if the one who wrote it was killed.
      await file.sync();
      return new ClaimFile(path, file, claims, wholeBytes, contents.length - wholeBytes);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * Writes the claim unless there is one for the same generation or a later. Resolves with the newest there
   * is then.
   */
  async claim(vm: string, claim: Claim): Promise<Claim> {
    return (await this.ask(vm, claim))!;
  }

  newest(vm: string): Promise<Claim | undefined> {
    return this.ask(vm, undefined);
  }

  /** Whether it must be left to the next process. */
  get isBroken(): boolean {
    return this.failure !== undefined;
  }

  /**
   * Resolves if a claim could be put on stable storage now; rejects with what is in the way. It leaves
   * nothing behind.
   */
  async check(): Promise<void> {
    if (this.failure !== undefined) throw this.failure;
    if (this.bytes > MOST_BYTES) throw new Error(`${this.path} has grown beyond ${MOST_BYTES} bytes`);
    // Those who look at the same time are answered together.
    this.checking ??= tryRoom(`${this.path}.check`).finally(() => {
      this.checking = undefined;
    });
    await this.checking;
  }

  /** Resolves when what was asked is answered. Nothing may be asked after. */
  async close(): Promise<void> {
    await this.working;
    await this.file.close();
  }

  private ask(vm: string, claim: Claim | undefined): Promise<Claim | undefined> {
    return new Promise((resolve, reject) => {
      this.questions.push({ vm, claim, resolve, reject });
      this.working ??= this.work();
    });
  }

  private async work(): Promise<void> {
    while (this.questions.length > 0) {
      const together = this.questions.splice(0, MOST_AT_ONCE);
      try {
        const answers = await this.decide(together);
        for (const [i, { resolve }] of together.entries()) resolve(answers[i]);
      } catch (error) {
        for (const { reject } of together) reject(error as Error);
      }
    }
    // At once, so that no question comes between the last look and this.
    this.working = undefined;
  }

  private async decide(questions: readonly Question[]): Promise<(Claim | undefined)[]> {
    if (this.failure !== undefined) throw this.failure;
    if (this.bytes > MOST_BYTES)
      throw new Error(`${this.path} has grown beyond ${MOST_BYTES} bytes; somebody claims without end`);
    if (this.leftover) await this.cutLeftover();
    const fresh = new Map<string, Claim>();
    const lines: ClaimOfVm[] = [];
    const answers = questions.map(({ vm, claim }) => {
      const newest = fresh.get(vm) ?? this.newestOf.get(vm);
      if (claim === undefined || (newest !== undefined && newest.generation >= claim.generation))
        return newest;
      fresh.set(vm, claim);
      lines.push({ vm, ...claim });
      return claim;
    });
    if (lines.length > 0) await this.append(claimLine(lines));
    // Only what is on stable storage is anybody's answer later.
    for (const [vm, claim] of fresh) this.newestOf.set(vm, claim);
    return answers;
  }

  private async append(line: Buffer): Promise<void> {
    try {
      for (let done = 0; done < line.length; ) {
        const { bytesWritten } = await this.file.write(line, done, line.length - done, this.bytes + done);
        done += bytesWritten;
      }
    } catch (cause) {
      this.leftover = true;
      throw this.cannotBeWritten(cause as Error);
    }
    await this.sync();
    this.bytes += line.length;
  }

  private async cutLeftover(): Promise<void> {
    try {
      await this.file.truncate(this.bytes);
    } catch (cause) {
      throw this.cannotBeWritten(cause as Error);
    }
    await this.sync();
    this.leftover = false;
  }

  private async sync(): Promise<void> {
    try {
      await this.file.datasync();
    } catch (cause) {
      const error = this.cannotBeWritten(cause as Error);
      // File systems that find room only when they write back say so here; of anything else nobody knows what
      // has become of the data.
      if (!NO_ROOM.includes((cause as NodeJS.ErrnoException).code!)) this.failure = error;
      this.leftover = true;
      throw error;
    }
  }

  private cannotBeWritten(cause: Error): Error {
    return new Error(`${this.path} cannot be written: ${cause.message}`, { cause });
  }
}

const NO_ROOM: readonly string[] = ["ENOSPC", "EDQUOT"];
/** More than a line has. */
const ROOM_BYTES = 4096;

/** Puts a little on stable storage beside the file, and takes it away. */
async function tryRoom(path: string): Promise<void> {
  try {
    await writeFile(path, Buffer.alloc(ROOM_BYTES, "\n"), { mode: 0o600, flush: true });
  } catch (cause) {
    throw new Error(`no claim can be stored: ${(cause as Error).message}`, { cause });
  } finally {
    await rm(path, { force: true }).catch(() => {});
  }
}

async function openOrCreate(path: string, create: boolean): Promise<FileHandle> {
  try {
    return await open(path, "r+");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT")
      throw new Error(`${path} cannot be opened: ${(cause as Error).message}`, { cause });
    if (!create)
      throw new Error(
        `${path} is not there. If this is a new witness, start it once with --create; if not, put the file back: a witness that has ` +
          "forgotten its claims lets a VM run twice",
      );
  }
  // Under its name only once it is whole; and should another one be quicker, it is his file that both open,
  // and one locks.
  const fresh = `${path}.${randomUUID()}`;
  try {
    await writeFile(fresh, headLine, { flag: "wx", mode: 0o600, flush: true });
    await link(fresh, path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
  } finally {
    await rm(fresh, { force: true });
  }
  await syncFolder(dirname(path));
  return await open(path, "r+");
}

async function syncFolder(folder: string): Promise<void> {
  const directory = await open(folder, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
