/**
 * The lab's client, a program of its own, to be run inside the client's namespace: one TCP connection to Redis, `INCR`,
 * and every answer read before the next request. It never hides a broken connection: it counts it and connects again.
 *
 *   node src/lab/client.ts --host 10.77.0.10 --port 6379 (--seconds N | --until-stdin-closes) [--key counter]
 *
 * Standard output, one JSON object a line: ClientProgress about every 200 ms, and ClientSummary once, last; that also
 * on SIGTERM and SIGINT, and when an answer makes no sense (then with status 1 and a line on standard error). Times `…Ns` are of CLOCK_MONOTONIC, which is one for the whole machine, as decimal strings.
 */
import { createConnection, type Socket } from "node:net";
import { createHistogram } from "node:perf_hooks";
import { parseArgs } from "node:util";
import { CounterAudit } from "./counter-audit.ts";

export interface ClientProgress {
  readonly kind: "progress";
  readonly atNs: string;
  readonly connected: boolean;
  readonly connections: number;
  readonly resets: number;
  readonly requests: number;
  readonly acked: number;
  /** The counter's highest value that an answer told. */
  readonly highest: number;
  /** Answers per second since the line before. */
  readonly rate: number;
  /** Longest time without an answer since the line before, one still open included. */
  readonly lastGapMs: number;
}

export interface ClientGap {
  readonly beganNs: string;
  readonly endedNs: string;
}

export interface ClientSummary {
  readonly kind: "summary";
  /** Connections that came about; 1 when nothing went wrong. */
  readonly connections: number;
  /** Connections that broke: reset, or closed by the other side. */
  readonly resets: number;
  readonly requests: number;
  readonly acked: number;
  /** The counter's highest value that an answer told; 0 without one. */
  readonly highest: number;
  /** Acknowledged increments that later answers did not contain. */
  readonly lost: number;
  /** Answers not above the one before. */
  readonly wentBack: number;
  /** Increments applied more often than asked for. */
  readonly repeated: number;
  /** Longest time between two answers, or between start or end and the answer nearest to it. */
  readonly longestGapMs: number;
  /** The longest of these gaps, longest first. */
  readonly gaps: readonly ClientGap[];
  /** Request to answer. Zeros when there was no answer. */
  readonly latencyMs: {
    readonly min: number;
    readonly p50: number;
    readonly p95: number;
    readonly p99: number;
    readonly max: number;
  };
}

interface ClientOptions {
  readonly host: string;
  readonly port: number;
  readonly key: string;
}

const progressIntervalMs = 200;
/** Time for one try to connect; then the next. */
const connectTimeoutMs = 1000;
/** Rest between a broken connection and the next try, so that a refusing host is not hammered. */
const retryDelayMs = 50;
const gapsKept = 32;
/** At the end, how long an answer on its way is waited for. */
const lastAnswerTimeoutMs = 1000;

class CounterClient {
  readonly #options: ClientOptions;
  readonly #request: Buffer;
  readonly #audit = new CounterAudit();
  readonly #latency = createHistogram({ lowest: 1, highest: 3_600_000_000_000, figures: 3 });
  #socket: Socket | undefined;
  #established = false;
  #received = "";
  #requestSentNs: bigint | undefined;
  #ending = false;
  #finished: (() => void) | undefined;
  #connections = 0;
  #resets = 0;
  #requests = 0;
  #acked = 0;
  #lastAnswerNs = now();
  /** Longest first. */
  #gaps: { beganNs: bigint; endedNs: bigint }[] = [];
  readonly #misunderstood = Promise.withResolvers<string>();
  /** Resolves, with what was read, when the server answers something that is no number; the client stops there. */
  readonly misunderstood = this.#misunderstood.promise;
  #progress = { atNs: now(), acked: 0, gapNs: 0n };

  constructor(options: ClientOptions) {
    this.#options = options;
    const { key } = options;
    this.#request = Buffer.from(`*2\r\n$4\r\nINCR\r\n$${Buffer.byteLength(key)}\r\n${key}\r\n`);
  }

  start(): void {
    this.#lastAnswerNs = now();
    this.#connect();
  }

  /** Sends nothing more; resolves when the answer on its way has come, or will not. */
  async end(): Promise<void> {
    this.#ending = true;
    if (this.#requestSentNs !== undefined) {
      const deadline = setTimeout(() => this.#finished?.(), lastAnswerTimeoutMs);
      await new Promise<void>((resolve) => {
        this.#finished = resolve;
      });
      clearTimeout(deadline);
    }
    this.#established = false; // this end of the connection is no reset
    this.#socket?.destroy();
  }

  #connect(): void {
    const socket = createConnection({ host: this.#options.host, port: this.#options.port, noDelay: true });
    this.#socket = socket;
    this.#received = "";
    socket.setTimeout(connectTimeoutMs, () => socket.destroy());
    socket.on("connect", () => {
      // From here on silence is the network's affair: TCP repeats what got lost.
      socket.setTimeout(0);
      this.#established = true;
      this.#connections += 1;
      this.#send();
    });
    socket.on("data", (bytes) => this.#read(bytes));
    socket.on("error", () => {}); // `close` follows
    socket.on("close", () => this.#closed());
  }

  #closed(): void {
    if (this.#established) this.#resets += 1;
    this.#established = false;
    if (this.#requestSentNs !== undefined) this.#audit.leftUnanswered();
    this.#requestSentNs = undefined;
    if (this.#ending) {
      this.#finished?.();
      return;
    }
    setTimeout(() => {
      if (!this.#ending) this.#connect();
    }, retryDelayMs);
  }

  #send(): void {
    if (this.#ending) {
      this.#finished?.();
      return;
    }
    this.#requests += 1;
    this.#requestSentNs = now();
    this.#socket!.write(this.#request);
  }

  #read(bytes: Buffer): void {
    this.#received += bytes.toString("latin1");
    const end = this.#received.indexOf("\r\n");
    if (end < 0) return;
    const line = this.#received.slice(0, end);
    this.#received = this.#received.slice(end + 2);
    if (!/^:-?\d+$/.test(line) || this.#requestSentNs === undefined) {
      const { host, port, key } = this.#options;
      this.#requestSentNs = undefined;
      this.#misunderstood.resolve(
        `${host}:${port} gave no number to INCR ${key}, but ${JSON.stringify(line)}`,
      );
      return;
    }
    const at = now();
    this.#latency.record(at - this.#requestSentNs || 1n);
    this.#requestSentNs = undefined;
    this.#noteGap(at);
    this.#lastAnswerNs = at;
    this.#acked += 1;
    this.#audit.answer(Number(line.slice(1)));
    this.#send();
  }

  #noteGap(endedNs: bigint): void {
    const beganNs = this.#lastAnswerNs;
    const gapNs = endedNs - beganNs;
    if (gapNs > this.#progress.gapNs) this.#progress.gapNs = gapNs;
    const shortest = this.#gaps.at(-1);
    const full = this.#gaps.length === gapsKept;
    if (full && shortest !== undefined && gapNs <= shortest.endedNs - shortest.beganNs) return;
    if (full) this.#gaps.pop();
    const place = this.#gaps.findIndex((gap) => gapNs > gap.endedNs - gap.beganNs);
    this.#gaps.splice(place === -1 ? this.#gaps.length : place, 0, { beganNs, endedNs });
  }

  progress(): ClientProgress {
    const atNs = now();
    const before = this.#progress;
    const openGapNs = atNs - this.#lastAnswerNs;
    this.#progress = { atNs, acked: this.#acked, gapNs: 0n };
    return {
      kind: "progress",
      atNs: String(atNs),
      connected: this.#established,
      connections: this.#connections,
      resets: this.#resets,
      requests: this.#requests,
      acked: this.#acked,
      highest: this.#audit.highest,
      rate: Math.round(((this.#acked - before.acked) * 1000) / Math.max(milliseconds(atNs - before.atNs), 1)),
      lastGapMs: Math.max(milliseconds(openGapNs), milliseconds(before.gapNs)),
    };
  }

  summary(): ClientSummary {
    this.#noteGap(now());
    const percentile = (percent: number) => (this.#acked === 0 ? 0 : this.#latency.percentile(percent) / 1e6);
    const { beganNs, endedNs } = this.#gaps[0] ?? { beganNs: 0n, endedNs: 0n };
    return {
      kind: "summary",
      connections: this.#connections,
      resets: this.#resets,
      requests: this.#requests,
      acked: this.#acked,
      highest: this.#audit.highest,
      lost: this.#audit.lost,
      wentBack: this.#audit.wentBack,
      repeated: this.#audit.repeated,
      longestGapMs: milliseconds(endedNs - beganNs),
      gaps: this.#gaps.map((gap) => ({ beganNs: String(gap.beganNs), endedNs: String(gap.endedNs) })),
      latencyMs: {
        min: this.#acked === 0 ? 0 : this.#latency.min / 1e6,
        p50: percentile(50),
        p95: percentile(95),
        p99: percentile(99),
        max: this.#acked === 0 ? 0 : this.#latency.max / 1e6,
      },
    };
  }
}

function now(): bigint {
  return process.hrtime.bigint();
}

function milliseconds(ns: bigint): number {
  return Number(ns / 1000n) / 1000;
}

function fail(why: string): never {
  process.stderr.write(`client: ${why}\n`);
  process.exit(1);
}

function readArguments(): ClientOptions & { readonly seconds: number | undefined } {
  const { values } = parseArgs({
    options: {
      host: { type: "string" },
      port: { type: "string", default: "6379" },
      key: { type: "string", default: "counter" },
      seconds: { type: "string" },
      "until-stdin-closes": { type: "boolean", default: false },
    },
  });
  const seconds = values.seconds === undefined ? undefined : Number(values.seconds);
  if (values.host === undefined) fail("give --host, the address of a Redis server");
  if ((seconds === undefined) !== values["until-stdin-closes"]) {
    fail("give either --seconds N or --until-stdin-closes");
  }
  if (seconds !== undefined && !(seconds > 0)) fail(`--seconds is ${values.seconds}: give a number above 0`);
  return { host: values.host, port: Number(values.port), key: values.key, seconds };
}

/** Resolves at the first of: time over, standard input closed, SIGTERM, SIGINT. */
function theEnd(seconds: number | undefined): Promise<undefined> {
  return new Promise((resolve) => {
    const over = () => resolve(undefined);
    process.on("SIGTERM", over);
    process.on("SIGINT", over);
    if (seconds !== undefined) {
      setTimeout(over, seconds * 1000);
      return;
    }
    process.stdin.on("end", over);
    process.stdin.on("close", over);
    process.stdin.resume();
  });
}

const { seconds, ...options } = readArguments();
const client = new CounterClient(options);
const print = (line: ClientProgress | ClientSummary) => process.stdout.write(`${JSON.stringify(line)}\n`);
client.start();
const ticker = setInterval(() => print(client.progress()), progressIntervalMs);
const complaint = await Promise.race([theEnd(seconds), client.misunderstood]);
clearInterval(ticker);
await client.end();
if (complaint !== undefined) process.stderr.write(`client: ${complaint}\n`);
// Written to the last byte before the process goes, also into a pipe.
const last = `${JSON.stringify(client.summary())}\n`;
process.stdout.write(last, () => process.exit(complaint === undefined ? 0 : 1));
