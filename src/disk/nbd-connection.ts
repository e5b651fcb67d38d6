/**
 * One connection to an NBD server behind a unix socket: into the export, then requests that wait for their
 * replies.
 */
import { createConnection, type Socket } from "node:net";
import { COMMAND, type NbdErrno, NbdProtocolError } from "../codec/nbd.ts";
import { clientHandshake, type NbdOpened, NbdRefusal } from "../codec/nbd-client-handshake.ts";
import { Dialogue } from "../codec/nbd-dialogue.ts";
import { encodeRequest } from "../codec/nbd-messages.ts";
import { replies, type SentRequest } from "../codec/nbd-replies.ts";

export interface NbdClientOptions {
  /** Of the server's unix socket. */
  readonly path: string;
  readonly exportName: string;
  /**
   * Metadata contexts to ask for: "base:allocation", "qemu:dirty-bitmap:NAME". Connecting fails if the server
   * lacks one of them.
   */
  readonly contexts?: readonly string[];
  /** How long connecting and the handshake may take. */
  readonly timeoutMs?: number;
}

/**
 * `ENOENT`: there is no such export. `ENOTCONN`: the connection is gone, or did not come about. `EPROTO`: the
 * server does not keep to the protocol. `ENOTSUP`: it does not offer what was asked for. Otherwise what the
 * server said.
 */
export class NbdError extends Error {
  readonly errno: NbdErrno | "ENOENT" | "ENOTCONN" | "EPROTO";

  constructor(errno: NbdError["errno"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "NbdError";
    this.errno = errno;
  }
}

/** Why a connection is over. `expected`: this side asked for it. `message` is a sentence. */
export interface NbdClosed {
  readonly expected: boolean;
  readonly message: string;
}

interface Pending {
  readonly request: SentRequest;
  /** For sentences: "write of 4096 bytes at 8192". */
  readonly what: string;
  readonly resolve: (request: SentRequest) => void;
  readonly reject: (error: NbdError) => void;
}

const HANDSHAKE_TIMEOUT_MS = 5000;
const GOODBYE_TIMEOUT_MS = 1000;
const READ_BUFFER_BYTES = 512 << 10;

export class NbdConnection {
  /** For sentences: which export, and where. */
  readonly where: string;
  readonly closed: Promise<NbdClosed>;
  readonly #opening = Promise.withResolvers<NbdOpened>();
  readonly #closing = Promise.withResolvers<NbdClosed>();
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #handshake: Dialogue<NbdOpened>;
  #replies: Dialogue<never> | undefined;
  #cookie = 0;
  #leaving = false;
  #left: Promise<void> | undefined;
  #idle: (() => void) | undefined;
  #over: NbdClosed | undefined;

  /** Resolves when requests can be made. Rejects with NbdError. */
  static async open(options: NbdClientOptions): Promise<{ connection: NbdConnection; opened: NbdOpened }> {
    const { timeoutMs = HANDSHAKE_TIMEOUT_MS } = options;
    const connection = new NbdConnection(options);
    const late = `no end of the handshake within ${timeoutMs} ms; look at the process that serves it`;
    const timer = setTimeout(() => connection.#fail("ENOTCONN", late), timeoutMs);
    try {
      return { connection, opened: await connection.#opening.promise };
    } finally {
      clearTimeout(timer);
    }
  }

  private constructor({ path, exportName, contexts = [] }: NbdClientOptions) {
    this.where = `NBD export ${JSON.stringify(exportName)} at ${path}`;
    this.closed = this.#closing.promise;
    // One buffer for all that comes: much quicker than a new one for every 64 KiB.
    const buffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);
    const callback = (count: number) => {
      this.#read(buffer.subarray(0, count));
      return true;
    };
    this.#socket = createConnection({ path, onread: { buffer, callback } });
    this.#socket.on("error", (cause) => this.#fail("ENOTCONN", cause.message, cause));
    this.#socket.on("close", () => this.#fail("ENOTCONN", "the server closed the connection"));
    const send = (bytes: Uint8Array) => this.#socket.write(bytes);
    this.#handshake = new Dialogue(clientHandshake({ exportName, contexts, send }));
  }

  /**
   * Sends a request and waits for its reply. `data`, of a write, must stay as it is until then.
   * @param name for sentences: "write"
   */
  request(
    name: string,
    command: number,
    request: SentRequest,
    flags = 0,
    data: readonly Uint8Array[] = [],
  ): Promise<SentRequest> {
    const { offset, length } = request;
    const what = length === 0 ? name : `${name} of ${length} bytes at ${offset}`;
    if (this.#over !== undefined || this.#leaving) {
      const why = this.#over?.message ?? `${this.where}: the connection is being closed`;
      return Promise.reject(new NbdError("ENOTCONN", `${what}: ${why}`));
    }
    const cookie = this.#cookie++;
    return new Promise((resolve, reject) => {
      this.#pending.set(cookie, { request, what, resolve, reject });
      this.#socket.cork();
      this.#socket.write(encodeRequest(command, flags, cookie, offset, length));
      for (const piece of data) this.#socket.write(piece);
      this.#socket.uncork();
    });
  }

  /** Waits for what is under way, says goodbye and closes. No request can be made from now on. */
  leave(): Promise<void> {
    this.#left ??= this.#goodbye();
    return this.#left;
  }

  /** Closes at once; what is under way rejects with `why`, a sentence. */
  destroy(why: string): void {
    this.#leaving = true;
    this.#fail("ENOTCONN", why);
    this.#socket.destroy();
  }

  #read(bytes: Buffer): void {
    if (this.#over !== undefined) return;
    try {
      const used = this.#replies === undefined ? this.#haggle(bytes) : 0;
      this.#replies?.push(bytes.subarray(used));
    } catch (cause) {
      if (cause instanceof NbdRefusal)
        this.#fail(cause.unknownExport ? "ENOENT" : "ENOTSUP", cause.message, cause);
      else if (cause instanceof NbdProtocolError) this.#fail("EPROTO", cause.message, cause);
      else throw cause;
    }
  }

  #haggle(bytes: Buffer): number {
    const used = this.#handshake.push(bytes);
    const opened = this.#handshake.result;
    if (opened === undefined) return used;
    this.#replies = new Dialogue(
      replies({
        structured: opened.structured,
        contexts: new Set(opened.contexts.values()),
        requestOf: (cookie) => this.#pending.get(cookie)?.request,
        onDone: (cookie) => this.#done(cookie),
      }),
    );
    this.#opening.resolve(opened);
    return used;
  }

  async #goodbye(): Promise<void> {
    this.#leaving = true;
    if (this.#over === undefined && this.#pending.size > 0)
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    if (this.#over !== undefined) return;
    this.#socket.end(encodeRequest(COMMAND.disconnect, 0, 0, 0, 0));
    const timer = setTimeout(() => this.destroy("the server did not close it"), GOODBYE_TIMEOUT_MS);
    await this.closed;
    clearTimeout(timer);
  }

  #done(cookie: number): void {
    const { request, what, resolve, reject } = this.#pending.get(cookie)!;
    this.#pending.delete(cookie);
    const { failure } = request;
    if (failure === undefined) resolve(request);
    else {
      const said = failure.said === "" ? "" : `: ${failure.said}`;
      reject(new NbdError(failure.errno, `${this.where}: ${what} failed with ${failure.errno}${said}`));
    }
    if (this.#pending.size === 0) this.#idle?.();
  }

  /** The first reason stands. */
  #fail(errno: NbdError["errno"], why: string, cause?: unknown): void {
    if (this.#over !== undefined) return;
    const message = `${this.where}: ${why}`;
    this.#over = { expected: this.#leaving, message };
    this.#opening.reject(new NbdError(errno, message, { cause }));
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { what, reject } of pending) reject(new NbdError(errno, `${what}: ${message}`, { cause }));
    this.#idle?.();
    this.#closing.resolve(this.#over);
    // What was said last, to a server that was refused, may still leave.
    this.#socket.destroySoon();
  }
}
