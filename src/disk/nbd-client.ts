/**
 * A client of an NBD server behind a unix socket: QEMU's exports. What it uses of the protocol:
 * docs/specs/nbd.md.
 */
import { COMMAND, COMMAND_FLAG, type NbdErrno, type NbdExtent, TRANSMISSION } from "../codec/nbd.ts";
import type { NbdOpened } from "../codec/nbd-client-handshake.ts";
import { SentRequest } from "../codec/nbd-replies.ts";
import { type NbdClientOptions, type NbdClosed, NbdConnection, NbdError } from "./nbd-connection.ts";

export { type NbdClientOptions, type NbdClosed, NbdError } from "./nbd-connection.ts";

/** A request's length has 32 bits. */
const LONGEST_REQUEST = 2 ** 32 - 1;

/**
 * All methods may be called while others are under way; requests that overlap may be carried out in any
 * order. Offsets and lengths are bytes, multiples of `minimumBlock`. Longer requests than the server takes
 * become several, which need not all succeed. All reject with NbdError.
 */
export class NbdClient {
  readonly exportName: string;
  /** Size of the export. */
  readonly bytes: number;
  readonly readOnly: boolean;
  /** Transmission flags as the server sent them: bits of `TRANSMISSION`. */
  readonly flags: number;
  readonly minimumBlock: number;
  readonly preferredBlock: number;
  /** The longest read or write in one request, at most 32 MiB. */
  readonly maximumBlock: number;
  /** Resolves when the connection is over, whatever the reason. Never rejects. */
  readonly closed: Promise<NbdClosed>;
  readonly #connection: NbdConnection;
  readonly #contexts: NbdOpened["contexts"];

  private constructor(exportName: string, connection: NbdConnection, opened: NbdOpened) {
    this.#connection = connection;
    this.#contexts = opened.contexts;
    this.exportName = exportName;
    this.bytes = opened.bytes;
    this.flags = opened.flags;
    this.readOnly = (opened.flags & TRANSMISSION.readOnly) !== 0;
    this.minimumBlock = opened.minimumBlock;
    this.preferredBlock = opened.preferredBlock;
    this.maximumBlock = opened.maximumBlock;
    this.closed = connection.closed;
  }

  static async connect(options: NbdClientOptions): Promise<NbdClient> {
    const { connection, opened } = await NbdConnection.open(options);
    return new NbdClient(options.exportName, connection, opened);
  }

  async read(offset: number, length: number): Promise<Buffer> {
    this.#check("read", offset, length);
    const bytes = Buffer.allocUnsafeSlow(length);
    await this.#inParts(offset, length, this.maximumBlock, (from, count) => {
      const target = bytes.subarray(from - offset, from - offset + count);
      return this.#connection.request("read", COMMAND.read, new SentRequest(from, count, target));
    });
    return bytes;
  }

  /** `data` must stay as it is until the promise settles. Several pieces are written one behind the other. */
  async write(offset: number, data: Uint8Array | readonly Uint8Array[]): Promise<void> {
    const pieces = data instanceof Uint8Array ? [data] : data;
    const length = pieces.reduce((sum, { length }) => sum + length, 0);
    this.#check("write", offset, length);
    await this.#inParts(offset, length, this.maximumBlock, (from, count) =>
      this.#connection.request(
        "write",
        COMMAND.write,
        new SentRequest(from, count),
        0,
        slices(pieces, from - offset, count),
      ),
    );
  }

  /** Any length. `noHole`: the space stays allocated. */
  async zero(offset: number, length: number, { noHole = false } = {}): Promise<void> {
    this.#check("zero", offset, length, TRANSMISSION.zero);
    const flags = noHole ? COMMAND_FLAG.noHole : 0;
    await this.#inParts(offset, length, this.#longestRequest, (from, count) =>
      this.#connection.request("zero", COMMAND.zero, new SentRequest(from, count), flags),
    );
  }

  /** Any length. What is there afterwards is undefined. */
  async trim(offset: number, length: number): Promise<void> {
    this.#check("trim", offset, length, TRANSMISSION.trim);
    await this.#inParts(offset, length, this.#longestRequest, (from, count) =>
      this.#connection.request("trim", COMMAND.trim, new SentRequest(from, count)),
    );
  }

  /** Everything whose promise had resolved before this call is on stable storage when it resolves. */
  async flush(): Promise<void> {
    this.#check("flush", 0, 0, TRANSMISSION.flush);
    await this.#connection.request("flush", COMMAND.flush, new SentRequest(0, 0));
  }

  /**
   * Extents of a context, in order, from `offset` on; neighbours differ in their flags. At least one (unless
   * `length` is 0). They may cover less than was asked for, never more.
   */
  async blockStatus(offset: number, length: number, context: string): Promise<readonly NbdExtent[]> {
    this.#check("block status", offset, length);
    const id = this.#contexts.get(context);
    if (id === undefined)
      throw new NbdError(
        "EINVAL",
        `${this.#connection.where}: the context ${context} was not asked for when connecting`,
      );
    if (length === 0) return [];
    const request = new SentRequest(offset, Math.min(length, this.#longestRequest), "extents");
    const { extents } = await this.#connection.request("block status", COMMAND.blockStatus, request);
    return extents!.get(id)!;
  }

  /** Waits for what is under way, says goodbye and closes. Nothing can be asked for from now on. */
  disconnect(): Promise<void> {
    return this.#connection.leave();
  }

  /** Closes at once; what is under way rejects with `why`, a sentence. */
  destroy(why: string): void {
    this.#connection.destroy(why);
  }

  /**
   * Of a request without data: all that 32 bits can say, but for what would spoil the alignment of the next.
   */
  get #longestRequest(): number {
    return LONGEST_REQUEST - (LONGEST_REQUEST % this.preferredBlock);
  }

  async #inParts(
    offset: number,
    length: number,
    most: number,
    send: (from: number, count: number) => Promise<unknown>,
  ): Promise<void> {
    const parts: Promise<unknown>[] = [];
    for (let done = 0; done < length; done += most)
      parts.push(send(offset + done, Math.min(most, length - done)));
    // Not Promise.all: memory of the caller's is in use until the last part has settled.
    const settled = await Promise.allSettled(parts);
    const failed = settled.find((part) => part.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }

  #check(what: string, offset: number, length: number, needs = 0): void {
    const fail = (errno: NbdErrno, why: string): never => {
      throw new NbdError(errno, `${this.#connection.where}: ${what} of ${length} bytes at ${offset}: ${why}`);
    };
    if ((this.flags & needs) !== needs) fail("ENOTSUP", "the server does not offer this");
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
    if (!whole || offset > this.bytes - length) fail("EINVAL", `the export has ${this.bytes} bytes`);
    if (offset % this.minimumBlock !== 0 || length % this.minimumBlock !== 0)
      fail("EINVAL", `offset and length must be multiples of ${this.minimumBlock}`);
  }
}

/** `count` bytes of the pieces in a row, from `from` on. */
function slices(pieces: readonly Uint8Array[], from: number, count: number): Uint8Array[] {
  const found: Uint8Array[] = [];
  let at = -from;
  for (const piece of pieces) {
    const part = piece.subarray(Math.max(0, -at), Math.max(0, Math.min(piece.length, count - at)));
    if (part.length > 0) found.push(part);
    at += piece.length;
  }
  return found;
}
