// A TCP proxy that makes link faults: delay, low bandwidth, a hang, a cut, a half-open connection. Stands
// between the two guardians in tests; a network fault made here needs no kernel module.
//
// As a program: node src/lab/fault-proxy.ts --listen 127.0.0.1:7001 --to 127.0.0.1:7000 [--delay MS] [--rate
// BYTES] It prints the address it listens on, then takes one command a line: delay MS | rate BYTES | pause |
// resume (each with "up" or "down" behind it for one direction), cut, half-open client|target, counts.

import { connect, createServer, type Server, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

/** "up" is from who connected to the target, "down" is back. */
export type Direction = "up" | "down";

export interface Fault {
  /** Every byte arrives this much later; the order stays. */
  readonly delayMs: number;
  /** Infinity: no limit. */
  readonly bytesPerSecond: number;
  /** Nothing moves and nothing is read; nobody is told. */
  readonly paused: boolean;
}

export interface ProxyOptions {
  readonly address?: string;
  /** 0: any free one. */
  readonly port?: number;
  readonly to: { readonly address: string; readonly port: number };
}

export class FaultProxy {
  readonly #to: ProxyOptions["to"];
  readonly #server: Server;
  readonly #pairs = new Set<Pair>();
  readonly #faults: Record<Direction, Fault> = { up: NO_FAULT, down: NO_FAULT };
  readonly #delivered: Record<Direction, number> = { up: 0, down: 0 };
  #accepted = 0;

  private constructor(to: ProxyOptions["to"]) {
    this.#to = to;
    // Half-open on purpose: each direction ends by itself, in order behind its bytes.
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => this.#accept(client));
  }

  static start({ address = "127.0.0.1", port = 0, to }: ProxyOptions): Promise<FaultProxy> {
    const proxy = new FaultProxy(to);
    return new Promise((resolve, reject) => {
      proxy.#server.once("error", reject).listen(port, address, () => resolve(proxy));
    });
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  /** Bytes handed on, per direction, over all connections. */
  get delivered(): Readonly<Record<Direction, number>> {
    return { ...this.#delivered };
  }

  /** Connections accepted so far. */
  get accepted(): number {
    return this.#accepted;
  }

  /** Changes faults, in one direction or both, for the connections that are and those to come. */
  set(fault: Partial<Fault>, direction?: Direction): void {
    for (const one of direction === undefined ? DIRECTIONS : [direction]) {
      this.#faults[one] = { ...this.#faults[one], ...fault };
    }
    for (const pair of this.#pairs) pair.wake();
  }

  pause(direction?: Direction): void {
    this.set({ paused: true }, direction);
  }

  resume(direction?: Direction): void {
    this.set({ paused: false }, direction);
  }

  /** Resets every connection, on both sides, at once; what was under way is lost. */
  cut(): void {
    for (const pair of [...this.#pairs]) pair.cut();
  }

  /** Resets the other side's connection; `keep` stays connected to nobody: what it sends is swallowed. */
  halfOpen(keep: "client" | "target"): void {
    for (const pair of this.#pairs) pair.halfOpen(keep);
  }

  /** Cuts everything and listens no more. */
  close(): void {
    this.cut();
    this.#server.close();
  }

  #accept(client: Socket): void {
    this.#accepted++;
    const target = connect({
      host: this.#to.address,
      port: this.#to.port,
      allowHalfOpen: true,
      noDelay: true,
    });
    const lane = (direction: Direction, from: Socket, into: Socket): Lane =>
      new Lane(from, into, {
        fault: () => this.#faults[direction],
        delivered: (bytes) => {
          this.#delivered[direction] += bytes;
        },
      });
    const pair = new Pair(client, target, lane("up", client, target), lane("down", target, client));
    this.#pairs.add(pair);
    pair.onGone(() => this.#pairs.delete(pair));
  }
}

const NO_FAULT: Fault = { delayMs: 0, bytesPerSecond: Number.POSITIVE_INFINITY, paused: false };
const DIRECTIONS: readonly Direction[] = ["up", "down"];

/** One connection through the proxy. */
class Pair {
  readonly #client: Socket;
  readonly #target: Socket;
  readonly #lanes: readonly Lane[];

  constructor(client: Socket, target: Socket, ...lanes: readonly Lane[]) {
    this.#client = client;
    this.#target = target;
    this.#lanes = lanes;
  }

  onGone(gone: () => void): void {
    const check = (): void => {
      if (this.#client.closed && this.#target.closed) gone();
    };
    this.#client.once("close", check);
    this.#target.once("close", check);
  }

  wake(): void {
    for (const lane of this.#lanes) lane.pump();
  }

  cut(): void {
    for (const lane of this.#lanes) lane.stop();
    reset(this.#client);
    reset(this.#target);
  }

  halfOpen(keep: "client" | "target"): void {
    for (const lane of this.#lanes) lane.stop();
    reset(keep === "client" ? this.#target : this.#client);
    (keep === "client" ? this.#client : this.#target).resume();
  }
}

/**
 * libuv refuses to reset a connection whose end is just being sent; Node then takes its handle for closed,
 * and the process can never end. Such a one is destroyed, and the peer hears of the end that was on its way.
 */
function reset(socket: Socket): void {
  if (socket.writableEnded && !socket.writableFinished) socket.destroy();
  else socket.resetAndDestroy();
}

interface LaneOptions {
  readonly fault: () => Fault;
  readonly delivered: (bytes: number) => void;
}

/** What waits in a lane: bytes, or the end of the stream, polite or by a reset. */
interface Item {
  readonly bytes: Uint8Array | "end" | "reset";
  readonly arrivedMs: number;
}

/**
 * A lane takes no more from its source while this much waits (I6): then the sender's own TCP holds it back.
 */
const LANE_MAX_BYTES = 16 * 1024 * 1024;
/** With a rate limit bytes go in pieces of about this time, so that they trickle. */
const PIECE_MS = 5;

/** One direction of one connection. */
class Lane {
  readonly #from: Socket;
  readonly #into: Socket;
  readonly #options: LaneOptions;
  #queue: Item[] = [];
  #queuedBytes = 0;
  /** The rate limit lets nothing go before this time. */
  #freeMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(from: Socket, into: Socket, options: LaneOptions) {
    this.#from = from;
    this.#into = into;
    this.#options = options;
    from.on("data", (bytes: Uint8Array) => this.#take(bytes));
    from.on("end", () => this.#take("end"));
    from.on("error", () => this.#take("reset"));
    into.on("drain", () => this.pump());
    into.on("close", () => this.stop());
    this.pump();
  }

  /** From now on this lane carries nothing; what it reads is swallowed. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#queue = [];
  }

  /** Hands on what is due, and sets the timer for what is not. */
  pump(): void {
    clearTimeout(this.#timer);
    if (this.#stopped) return;
    const { paused, delayMs, bytesPerSecond } = this.#options.fault();
    if (paused || this.#queuedBytes >= LANE_MAX_BYTES) this.#from.pause();
    else this.#from.resume();
    while (!paused && this.#queue.length > 0 && !this.#into.writableNeedDrain) {
      const item = this.#queue[0]!;
      const now = performance.now();
      const waitMs = Math.max(item.arrivedMs + delayMs, this.#freeMs) - now;
      if (waitMs > 0) {
        this.#timer = setTimeout(() => this.pump(), Math.ceil(waitMs));
        return;
      }
      this.#deliver(item, bytesPerSecond, now);
    }
  }

  #take(bytes: Item["bytes"]): void {
    if (this.#stopped) return;
    this.#queue.push({ bytes, arrivedMs: performance.now() });
    if (typeof bytes !== "string") this.#queuedBytes += bytes.byteLength;
    this.pump();
  }

  #deliver({ bytes, arrivedMs }: Item, bytesPerSecond: number, now: number): void {
    if (bytes === "end") {
      this.#queue.shift();
      this.#into.end();
    } else if (bytes === "reset") {
      this.stop();
      reset(this.#into);
    } else {
      const limit = Math.max(1, Math.floor((bytesPerSecond * PIECE_MS) / 1000));
      const piece = bytes.subarray(0, limit);
      if (piece.byteLength === bytes.byteLength) this.#queue.shift();
      else this.#queue[0] = { bytes: bytes.subarray(limit), arrivedMs };
      this.#queuedBytes -= piece.byteLength;
      this.#freeMs = now + (piece.byteLength / bytesPerSecond) * 1000;
      this.#options.delivered(piece.byteLength);
      this.#into.write(piece);
    }
  }
}

/**
 * Carries out one line of the program's input. Gives the answer to print. @throws Error on a line that is
 * none
 */
export function command(proxy: FaultProxy, line: string): string {
  const words = line.trim().split(/\s+/);
  const direction = DIRECTIONS.find((one) => one === words.at(-1));
  const [name, value] = direction === undefined ? words : words.slice(0, -1);
  const amount = Number(value);
  if (name === "delay" && amount >= 0) proxy.set({ delayMs: amount }, direction);
  else if (name === "rate" && amount > 0) proxy.set({ bytesPerSecond: amount }, direction);
  else if (name === "pause") proxy.pause(direction);
  else if (name === "resume") proxy.resume(direction);
  else if (name === "cut") proxy.cut();
  else if (name === "half-open" && (value === "client" || value === "target")) proxy.halfOpen(value);
  else if (name === "counts") return JSON.stringify(proxy.delivered);
  else throw new Error(`${JSON.stringify(line)} is no command; see the top of fault-proxy.ts`);
  return "ok";
}

async function main(): Promise<void> {
  const text = { type: "string" } as const;
  const { values } = parseArgs({ options: { listen: text, to: text, delay: text, rate: text } });
  const proxy = await FaultProxy.start({
    ...endpoint("listen", values.listen),
    to: endpoint("to", values.to),
  });
  if (values.delay !== undefined) command(proxy, `delay ${values.delay}`);
  if (values.rate !== undefined) command(proxy, `rate ${values.rate}`);
  console.log(`listening on port ${proxy.port}`);
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      console.log(command(proxy, line));
    } catch (error) {
      console.log(`error: ${(error as Error).message}`);
    }
  }
  // Who started the proxy has closed its input: nobody is left to steer it.
  proxy.close();
}

function endpoint(option: string, value: string | undefined): { address: string; port: number } {
  const match = /^\[?(.+?)\]?:(\d+)$/.exec(value ?? "");
  if (match === null) throw new Error(`--${option} ${value ?? "is missing"}: expected ADDRESS:PORT`);
  return { address: match[1]!, port: Number(match[2]) };
}

if (import.meta.main) await main();
