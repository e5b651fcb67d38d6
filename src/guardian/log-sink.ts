/**
 * Where log lines go: a descriptor that was handed to us, of whatever kind. Nothing waits for it and nothing
 * ends because of it: what it does not take, since a file system is full, nobody reads or the reader has
 * gone, is dropped and counted, and the next line that gets through is told how many came before it.
 *
 * A pipe or a terminal is opened once more, not to wait: to change the descriptor itself would change it for
 * those who share it, a shell for example. A socket (journald's) cannot be opened; each write to it says that
 * it does not wait. Files are written by Node's own threads, one write at a time.
 */
import { closeSync, constants, fstatSync, openSync, write, writeSync } from "node:fs";
import { sendNow } from "../os/socket.ts";

/** What may wait to be written. */
const MOST_WAITING_BYTES = 1 << 20;
/** From a try at which nothing was taken to the next. */
const AGAIN_MS = 50;

/** Writes what can be written at once. @returns bytes taken; throws EAGAIN if none can */
type WriteNow = (bytes: Uint8Array) => number;

interface Entry {
  readonly line: Buffer;
  /** A part of it was taken: what is left. */
  rest: Buffer | undefined;
  /** So many lines were lost just before it, and it tells of them. */
  tells: number;
}

export class LogSink {
  private readonly fd: number;
  private readonly opened: number | undefined;
  /** Undefined: a file, which Node's threads write. */
  private readonly now: WriteNow | undefined;
  private readonly lost: (lines: number, reason: string) => string;
  private readonly waiting: Entry[] = [];
  private waitingBytes = 0;
  private dropped = 0;
  private reason = "";
  /** What was written last is a line without its end. */
  private torn = false;
  private busy = false;
  private timer: NodeJS.Timeout | undefined;
  private empty: (() => void) | undefined;

  /** @param lost a line that tells of lines that were lost */
  constructor(fd: number, lost: (lines: number, reason: string) => string) {
    this.lost = lost;
    const { now, own } = openAgain(fd);
    this.fd = fd;
    this.opened = own;
    this.now = now;
  }

  /** Lines that were dropped and not told of yet. */
  get droppedLines(): number {
    return this.waiting.reduce((sum, { tells }) => sum + tells, this.dropped);
  }

  /** One line, with its end. */
  write(text: string): void {
    const line = Buffer.from(text);
    if (this.waitingBytes + line.length > MOST_WAITING_BYTES) {
      this.drop("nobody takes what is written");
      return;
    }
    this.waiting.push({ line, rest: undefined, tells: this.dropped });
    this.dropped = 0;
    this.waitingBytes += line.length;
    this.work();
  }

  /**
   * Resolves when everything is written or dropped, or after `withinMs`. Nothing may be written after that.
   */
  async end(withinMs: number): Promise<void> {
    if (this.waiting.length > 0) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.empty = resolve;
      const limit = setTimeout(resolve, withinMs);
      await promise;
      clearTimeout(limit);
    }
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.opened !== undefined) closeSync(this.opened);
  }

  private work(): void {
    if (this.busy || this.timer !== undefined) return;
    if (this.now === undefined) this.writeFile();
    else this.writeNow(this.now);
    if (this.waiting.length === 0) this.empty?.();
  }

  private writeNow(now: WriteNow): void {
    for (let entry = this.waiting[0]; entry !== undefined; entry = this.waiting[0]) {
      const bytes = this.next(entry);
      try {
        this.taken(entry, bytes, now(bytes));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "EAGAIN") {
          this.later();
          return;
        }
        this.refused(entry, error as Error);
      }
    }
  }

  private writeFile(): void {
    const [entry] = this.waiting;
    if (entry === undefined) return;
    this.busy = true;
    const bytes = this.next(entry);
    write(this.fd, bytes, (error, count) => {
      this.busy = false;
      if (error === null) this.taken(entry, bytes, count);
      else this.refused(entry, error);
      this.work();
    });
  }

  /** What is to be written of it now: before a whole line, that others were lost. */
  private next(entry: Entry): Buffer {
    if (entry.rest !== undefined) return entry.rest;
    if (entry.tells === 0) return entry.line;
    const told = `${this.torn ? "\n" : ""}${this.lost(entry.tells, this.reason)}`;
    return Buffer.concat([Buffer.from(told), entry.line]);
  }

  private taken(entry: Entry, bytes: Buffer, count: number): void {
    if (count < bytes.length) {
      entry.rest = bytes.subarray(count);
      this.torn = true;
      return;
    }
    this.torn = false;
    this.done(entry);
  }

  private refused(entry: Entry, { message }: Error): void {
    this.done(entry);
    this.reason = message;
    const [next] = this.waiting;
    if (next === undefined) this.dropped += entry.tells + 1;
    else next.tells += entry.tells + 1;
  }

  private done(entry: Entry): void {
    this.waiting.shift();
    this.waitingBytes -= entry.line.length;
  }

  private drop(reason: string): void {
    this.dropped++;
    this.reason = reason;
  }

  private later(): void {
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.work();
    }, AGAIN_MS);
    this.timer.unref();
  }
}

function openAgain(fd: number): { readonly now?: WriteNow; readonly own?: number } {
  try {
    const kind = fstatSync(fd);
    if (kind.isFile()) return {};
    if (kind.isSocket()) return { now: (bytes) => sendNow(fd, bytes) };
    const { O_APPEND, O_NOCTTY, O_NONBLOCK, O_WRONLY } = constants;
    const own = openSync(`/proc/self/fd/${fd}`, O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY);
    return { now: (bytes) => writeSync(own, bytes), own };
  } catch {
    // Another user's pipe: a thread of Node's waits for it, and this one does not.
    return {};
  }
}
