/** A client of an NBD server behind a unix socket: QEMU's exports. See docs/specs/nbd.md. */
import type { NbdErrno, NbdExtent } from "../codec/nbd.ts";

export interface NbdClientOptions {
  /** Of the server's unix socket. */
  readonly path: string;
  readonly exportName: string;
  /** Metadata contexts to ask for: "base:allocation", "qemu:dirty-bitmap:NAME". `connect` fails if the server lacks one of them. */
  readonly contexts?: readonly string[];
  /** How long connecting and the handshake may take. */
  readonly timeoutMs?: number;
}

/** `ENOTCONN`: the connection is gone. `EPROTO`: the server does not keep to the protocol. Otherwise what the server said. */
export class NbdError extends Error {
  readonly errno: NbdErrno | "ENOTCONN" | "EPROTO";

  constructor(errno: NbdError["errno"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "NbdError";
    this.errno = errno;
  }
}

/** Why a connection is over. `expected`: this side asked for it. */
export interface NbdClosed {
  readonly expected: boolean;
  readonly message: string;
}

/** All methods may be called while others are under way; requests that overlap may be carried out in any order. They reject with NbdError. */
export class NbdClient {
  readonly exportName: string = "";
  /** Size of the export. */
  readonly bytes: number = 0;
  readonly readOnly: boolean = false;
  /** Transmission flags as the server sent them (NBD_FLAG_...). */
  readonly flags: number = 0;
  readonly minimumBlock: number = 1;
  readonly preferredBlock: number = 4096;
  readonly maximumBlock: number = 32 << 20;
  /** Resolves when the connection is over, whatever the reason. Never rejects. */
  readonly closed: Promise<NbdClosed> = new Promise(() => {});

  static async connect(_options: NbdClientOptions): Promise<NbdClient> {
    throw new NbdError("ENOTSUP", "not there yet");
  }

  async read(_offset: number, _length: number): Promise<Buffer> {
    throw new NbdError("ENOTSUP", "not there yet");
  }

  /** `data` must stay as it is until the promise settles. Several parts are written one behind the other. */
  async write(_offset: number, _data: Uint8Array | readonly Uint8Array[]): Promise<void> {}

  /** Any length. `noHole`: the space stays allocated. */
  async zero(_offset: number, _length: number, _options?: { readonly noHole?: boolean }): Promise<void> {}

  /** Any length. What is there afterwards is undefined. */
  async trim(_offset: number, _length: number): Promise<void> {}

  /** What was written and answered before this call is on stable storage when it resolves. */
  async flush(): Promise<void> {}

  /** Extents that cover exactly this range, in order; neighbours differ in their flags. */
  async blockStatus(_offset: number, _length: number, _context: string): Promise<NbdExtent[]> {
    return [];
  }

  /** Waits for what is under way, says goodbye and closes. */
  async disconnect(): Promise<void> {}

  /** Closes at once; what is under way rejects. */
  destroy(_why: string): void {}
}
