// The backup's addresses: a server at each, all of which lead to one door.

import { createServer, type Server } from "node:net";
import { Acceptor, type AcceptorOptions } from "./acceptor.ts";
import { type Address, at, LinkError } from "./link-error.ts";

export type { Caller, Stray, TurnedAway } from "./acceptor.ts";

export interface ListenOptions extends AcceptorOptions {
  /** Path i of a session comes in at addresses[i]. Port 0: any free one, see Listener.ports. */
  readonly addresses: readonly Address[];
  /** An address cannot be had at present, or can again. */
  readonly onAddress?: (event: AddressEvent) => void;
  /** An address that cannot be had is tried again also if there is no other: listening never fails. */
  readonly patient?: boolean;
}

export interface AddressEvent {
  readonly path: number;
  readonly up: boolean;
  readonly reason: string;
}

/**
 * Listens until close(). Rejects with a LinkError if none of the addresses can be had, unless it is
 * `patient`; one of several is tried again.
 */
export async function listen(options: ListenOptions): Promise<Listener> {
  const listener = new Listener(options);
  try {
    await listener.open();
  } catch (error) {
    listener.close();
    throw error;
  }
  return listener;
}

const AGAIN_MS = 1_000;

export class Listener {
  readonly #options: ListenOptions;
  readonly #acceptor: Acceptor;
  readonly #servers: Server[] = [];
  readonly #timers = new Set<NodeJS.Timeout>();
  #closed = false;

  constructor(options: ListenOptions) {
    this.#options = options;
    this.#acceptor = new Acceptor(options);
  }

  /** To be called once. */
  async open(): Promise<void> {
    const { addresses } = this.#options;
    const tries = addresses.map((address, path) => this.#listen(address, path));
    const outcomes = await Promise.allSettled(tries);
    const failures = outcomes.map((outcome) => (outcome.status === "rejected" ? outcome.reason : undefined));
    if (this.#options.patient !== true && failures.every((failure) => failure !== undefined))
      throw failures[0];
    failures.forEach((failure, path) => {
      if (failure !== undefined) this.#later(path, failure as LinkError);
    });
  }

  /** One for each address; 0 for one that cannot be had. */
  get ports(): number[] {
    return this.#options.addresses.map((_, path) => {
      const address = this.#servers[path]?.address();
      return typeof address === "object" && address !== null ? address.port : 0;
    });
  }

  /**
   * Takes no one any more and drops strangers. A primary that has said HELLO is its owner's: it stays, but
   * gets no further path.
   */
  close(): void {
    this.#closed = true;
    for (const timer of this.#timers) clearTimeout(timer);
    for (const server of this.#servers) server?.close();
    this.#acceptor.close();
  }

  #listen(address: Address, path: number): Promise<void> {
    const server = createServer({ noDelay: true }, (socket) => this.#acceptor.accept(socket, path));
    return new Promise((resolve, reject) => {
      server.once("error", (cause) => {
        const todo = "end what uses it, or choose an address of this host and a free port";
        const message = `cannot listen on ${at(address)}: ${cause.message}; ${todo}`;
        reject(new LinkError("cannot-listen", message, { cause }));
      });
      server.listen({ host: address.host, port: address.port }, () => {
        server.removeAllListeners("error");
        // An accept that fails (no file descriptors left, say) costs that connection, not the session.
        server.on("error", (error) => this.#acceptor.turnAway("stranger-dropped", "listener", error.message));
        this.#servers[path] = server;
        if (this.#closed) server.close();
        resolve();
      });
    });
  }

  #later(path: number, failure: LinkError): void {
    this.#options.onAddress?.({ path, up: false, reason: failure.message });
    const again = (): void => {
      const timer = setTimeout(async () => {
        this.#timers.delete(timer);
        const address = this.#options.addresses[path]!;
        try {
          await this.#listen(address, path);
          this.#options.onAddress?.({ path, up: true, reason: `listening on ${at(address)} now` });
        } catch {
          if (!this.#closed) again();
        }
      }, AGAIN_MS);
      this.#timers.add(timer);
    };
    again();
  }
}
