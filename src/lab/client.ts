/**
 * The lab's client, a program of its own, to be run inside the client's namespace: one TCP connection to
 * Redis, `INCR`, and every answer read before the next request. It never hides a broken connection: it counts
 * it and connects again.
 *
 *   node src/lab/client.ts --host 10.77.0.10 --port 6379 (--seconds N | --until-stdin-closes) [--key counter]
 *
 * Standard output, one JSON object a line: ClientProgress about every 200 ms, and ClientSummary once, last;
 * that also on SIGTERM and SIGINT, and when an answer makes no sense (then with status 1 and a line on
 * standard error). Times `…Ns` are of CLOCK_BOOTTIME, which is one for the whole machine, as decimal strings.
 */
import { createConnection, type Socket } from "node:net";
import { parseArgs } from "node:util";
import { type ClientProgress, ClientReport, type ClientSummary, nowNs } from "./client-report.ts";
import { CounterAudit } from "./counter-audit.ts";

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
/** At the end, how long an answer on its way is waited for. */
const lastAnswerTimeoutMs = 1000;

class CounterClient {
  readonly #options: ClientOptions;
  readonly #request: Buffer;
  readonly #audit = new CounterAudit();
  readonly report = new ClientReport(this.#audit);
  #socket: Socket | undefined;
  #received = "";
  #requestSentNs: bigint | undefined;
  #ending = false;
  #finished: (() => void) | undefined;
  readonly #misunderstood = Promise.withResolvers<string>();
  /**
   * Resolves, with what was read, when the server answers something that is no number; the client stops
   * there.
   */
  readonly misunderstood = this.#misunderstood.promise;

  constructor(options: ClientOptions) {
    this.#options = options;
    const { key } = options;
    this.#request = Buffer.from(`*2\r\n$4\r\nINCR\r\n$${Buffer.byteLength(key)}\r\n${key}\r\n`);
  }

  start(): void {
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
    this.report.connected = false; // this end of the connection is no reset
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
      this.report.connected = true;
      this.report.connections += 1;
      this.#send();
    });
    socket.on("data", (bytes) => this.#read(bytes));
    socket.on("error", () => {}); // `close` follows
    socket.on("close", () => this.#closed());
  }

  #closed(): void {
    if (this.report.connected) this.report.resets += 1;
    this.report.connected = false;
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
    this.report.requests += 1;
    this.#requestSentNs = nowNs();
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
    this.report.answered(this.#requestSentNs);
    this.#requestSentNs = undefined;
    this.#audit.answer(Number(line.slice(1)));
    this.#send();
  }
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
const ticker = setInterval(() => print(client.report.progress()), progressIntervalMs);
const complaint = await Promise.race([theEnd(seconds), client.misunderstood]);
clearInterval(ticker);
await client.end();
if (complaint !== undefined) process.stderr.write(`client: ${complaint}\n`);
// Written to the last byte before the process goes, also into a pipe.
const last = `${JSON.stringify(client.report.summary())}\n`;
process.stdout.write(last, () => process.exit(complaint === undefined ? 0 : 1));
