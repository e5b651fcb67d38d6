/**
 * One caller at the control socket: its lines are taken in one by one, and its answers go back when they are
 * done. What it may take up is bounded (I6): the orders it has given, the answers it does not read, the
 * length of a line.
 *
 * A caller that has nothing more to say may close its half, as `nc` and `socat` do at the end of their input:
 * what it asked for is answered all the same. One that has gone entirely is found out, for with it ends what
 * it has asked to be undone.
 */
import type { Socket } from "node:net";
import { hungUp } from "../../os/socket.ts";

/** Whoever gave an order, for as long as the connection lasts. */
export interface Caller {
  /** `undo` is called when the connection ends. */
  onLeft(undo: () => void): void;
}

export interface ConnectionOptions {
  /** Carries a line out. Never rejects. */
  readonly answer: (line: string, caller: Caller) => Promise<Readonly<Record<string, unknown>>>;
  readonly onClosed: () => void;
}

export const LONGEST_LINE = 64 * 1024;
/** Orders of one caller that are under way or wait for their turn. */
export const MOST_ORDERS = 32;
/** What a caller has not read of answers and events. */
const MOST_UNREAD_BYTES = 1 << 20;
/** With more than that unread, the next order waits. */
const ENOUGH_UNREAD_BYTES = 64 * 1024;
/** Nothing tells of the end of a caller that has closed its half before. */
const LOOK_EVERY_MS = 250;

export class ControlConnection {
  /** Gets events. */
  watches = false;
  private readonly socket: Socket;
  private readonly options: ConnectionOptions;
  private readonly undo: (() => void)[] = [];
  private readonly lines: string[] = [];
  private rest = "";
  private underWay = 0;
  private taking = false;
  private heardMs = performance.now();
  /** The caller has nothing more to say. */
  private silent = false;
  private lookTimer: NodeJS.Timeout | undefined;

  constructor(socket: Socket, options: ConnectionOptions) {
    this.socket = socket;
    this.options = options;
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.closed());
    socket.on("end", () => this.fellSilent());
    socket.setEncoding("utf8").on("data", (text: string) => this.heard(text));
  }

  /** Since when nothing is heard of a caller who waits for nothing; undefined if it waits for something. */
  get idleSinceMs(): number | undefined {
    const waits = this.watches || this.undo.length > 0 || this.underWay + this.lines.length > 0;
    return waits ? undefined : this.heardMs;
  }

  /** An answer or an event. A caller that lets too much pile up is dropped rather than waited for. */
  say(message: Readonly<Record<string, unknown>>): void {
    if (this.socket.destroyed) return;
    if (this.socket.writableLength > MOST_UNREAD_BYTES) this.socket.destroy();
    else this.socket.write(`${JSON.stringify(message)}\n`);
  }

  /** The last word: the connection ends when it is read. */
  dismiss(message: Readonly<Record<string, unknown>>): void {
    this.say(message);
    // Nothing more is taken from this caller.
    this.lines.length = 0;
    this.socket.removeAllListeners("data").resume();
    this.socket.destroySoon();
  }

  close(): void {
    this.socket.destroy();
  }

  private heard(text: string): void {
    this.heardMs = performance.now();
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop()!;
    for (const line of lines) this.queue(line);
    if (this.rest.length > LONGEST_LINE)
      this.dismiss({ error: { code: "too-long", message: `a line may have ${LONGEST_LINE} characters` } });
  }

  private queue(line: string): void {
    if (this.underWay + this.lines.length >= MOST_ORDERS) {
      const message = `this connection has ${MOST_ORDERS} orders that are not answered yet; wait for an answer before the next`;
      this.say({ ...idOf(line), error: { code: "too-many", message } });
      return;
    }
    this.lines.push(line);
    if (!this.taking) void this.takeLines();
  }

  /** Line by line, each in a turn of its own: many that come at once must not keep heartbeats waiting. */
  private async takeLines(): Promise<void> {
    this.taking = true;
    for (let line = this.lines.shift(); line !== undefined; line = this.lines.shift()) {
      // Until it is settled it counts among the orders under way.
      this.underWay++;
      if (this.socket.writableLength > ENOUGH_UNREAD_BYTES) await this.drained();
      void this.answer(line);
      await new Promise((next) => setImmediate(next));
    }
    this.taking = false;
  }

  private async answer(line: string): Promise<void> {
    const caller: Caller = {
      onLeft: (undo) => {
        if (this.socket.destroyed) undo();
        else this.undo.push(undo);
      },
    };
    this.say(await this.options.answer(line, caller));
    this.underWay--;
    this.perhapsDone();
  }

  private drained(): Promise<void> {
    const { socket } = this;
    if (socket.destroyed) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        socket.off("drain", done).off("close", done);
        resolve();
      };
      socket.on("drain", done).on("close", done);
    });
  }

  private fellSilent(): void {
    this.silent = true;
    if (this.rest.trim() !== "") this.queue(this.rest);
    this.rest = "";
    this.perhapsDone();
    this.lookTimer = setInterval(() => this.lookForEnd(), LOOK_EVERY_MS);
    this.lookTimer.unref();
    this.lookForEnd();
  }

  private lookForEnd(): void {
    if (hungUp(this.socket)) this.socket.destroy();
  }

  /** Who says nothing more and waits for nothing has had everything. */
  private perhapsDone(): void {
    if (this.silent && this.idleSinceMs !== undefined) this.socket.end();
  }

  private closed(): void {
    clearInterval(this.lookTimer);
    for (const one of this.undo.splice(0)) one();
    this.options.onClosed();
  }
}

/** The id of a request that is not looked at further, so that the caller knows which one it was. */
export function idOf(line: string): { id?: unknown } {
  try {
    const { id } = (JSON.parse(line) ?? {}) as { id?: unknown };
    return { id };
  } catch {
    return {};
  }
}
