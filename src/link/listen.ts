// The backup's door: takes one primary at a time, turns others away with a reason, and drops strangers.

import { createServer, type Server, type Socket } from "node:net";
import {
  type DiskImage,
  type Hello,
  type MessageOf,
  PROTOCOL_VERSION,
  ProtocolError,
  type Refuse,
} from "../codec/replication.ts";
import { encodeRefuse, encodeTakeover, encodeWelcome, type Frame } from "../codec/replication-encode.ts";
import { type FrameIds, vmIdBytes, vmIdText } from "../codec/replication-header.ts";
import { at, LinkError, type LinkHandlers } from "./connect.ts";
import { type ClosedReason, Connection } from "./connection.ts";
import { checkedSigns, type SignsOfLife, watch } from "./heartbeat.ts";

/** Connections that have not said HELLO yet; more are closed unheard (I6). */
const MAX_STRANGERS = 16;

export interface ListenOptions extends SignsOfLife {
  readonly address: string;
  /** 0: any free one, see Listener.port. */
  readonly port: number;
  readonly vmId: Uint8Array;
  /** This host's name, for WELCOME. */
  readonly host: string;
  /** The generation that this side knows of, for WELCOME and REFUSE. */
  readonly generation: () => number;
  /** A primary of this VM has said HELLO and there is no other. Answer once, now or later: welcome(), refuse() or tellTakeover(). */
  readonly onPrimary: (caller: Caller) => void;
  /** For the log: who was turned away or dropped, one event each. */
  readonly onTurnedAway?: (event: TurnedAway) => void;
  readonly helloDeadlineMs?: number;
}

export interface TurnedAway {
  readonly kind: "stranger-dropped" | "primary-refused" | "primary-gone";
  readonly peer: string;
  readonly message: string;
}

/** A primary at the door. */
export interface Caller {
  readonly peer: string;
  readonly hello: Hello;
  readonly generation: number;
  /** Lets it in, and says what this host has of its disks. If it has gone meanwhile, the handlers hear of it in a microtask. */
  welcome(handlers: LinkHandlers, disks?: readonly DiskImage[]): Connection;
  /** Turns it away: no protection here. Its VM may run on. */
  refuse(refuse: Refuse): void;
  /** Turns it away for good: this side runs the VM, as its present generation, from checkpoint `epoch` (I3). */
  tellTakeover(epoch: number): void;
}

/** Listens until close(). Rejects with a LinkError if the address cannot be had. */
export function listen(options: ListenOptions): Promise<Listener> {
  return new Promise((resolve, reject) => {
    const listener = new Listener(options, (error) => {
      if (error === undefined) {
        resolve(listener);
        return;
      }
      const where = at(options.address, options.port);
      const todo = "end what uses it, or choose an address of this host and a free port";
      reject(
        new LinkError("cannot-listen", `cannot listen on ${where}: ${error.message}; ${todo}`, {
          cause: error,
        }),
      );
    });
  });
}

export class Listener {
  readonly #options: ListenOptions;
  readonly #signs: Required<SignsOfLife>;
  readonly #server: Server;
  readonly #strangers = new Set<Connection>();
  #session: Connection | undefined;

  constructor(options: ListenOptions, ready: (error?: Error) => void) {
    this.#options = options;
    this.#signs = checkedSigns(options);
    this.#server = createServer({ noDelay: true }, (socket) => this.#accept(socket));
    this.#server.once("error", ready);
    this.#server.listen({ host: options.address, port: options.port }, () => {
      this.#server.off("error", ready);
      // An accept that fails (no file descriptors left, say) costs that connection, not the session.
      this.#server.on("error", (error) => this.#turnAway("stranger-dropped", "listener", error.message));
      ready();
    });
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  /** Takes no one any more and drops strangers. A primary that has said HELLO is its owner's: it stays. */
  close(): void {
    this.#server.close();
    for (const connection of [...this.#strangers]) connection.destroy("the listener closes");
  }

  #accept(socket: Socket): void {
    const peer = at(socket.remoteAddress, socket.remotePort);
    if (this.#strangers.size >= MAX_STRANGERS) {
      socket.destroy();
      this.#turnAway("stranger-dropped", peer, `${MAX_STRANGERS} others have connected and said nothing`);
      return;
    }
    const deadlineMs = this.#options.helloDeadlineMs ?? 2000;
    const timer = setTimeout(
      () => connection.destroy(`${peer}: no HELLO within ${deadlineMs} ms`),
      deadlineMs,
    );
    const leave = (): void => {
      clearTimeout(timer);
      this.#strangers.delete(connection);
    };
    const handlers = {
      onMessage: (message: unknown): void => {
        leave();
        // The parser lets nothing but HELLO through as the first message.
        this.#greet(connection, message as MessageOf<"hello">);
      },
      onClosed: (reason: ClosedReason): void => {
        leave();
        this.#turnAway("stranger-dropped", peer, reason.message);
      },
    };
    const connection = new Connection(socket, { role: "backup", peer, handlers });
    this.#strangers.add(connection);
  }

  #greet(connection: Connection, message: MessageOf<"hello">): void {
    const { vmId, hello } = message;
    // The answer speaks of the caller's VM, or the caller could not read it.
    const ids: FrameIds = { vmId: vmIdBytes(vmId), generation: this.#options.generation() };
    const own = vmIdText(this.#options.vmId);
    if (vmId !== own) {
      this.#refuse(connection, ids, {
        code: "wrong-vm",
        message: `this is the backup of VM ${own}, not of ${vmId}`,
      });
    } else if (hello.protocol !== PROTOCOL_VERSION) {
      const message = `protocol ${hello.protocol} here meets ${PROTOCOL_VERSION}; run the same Remus on both hosts`;
      this.#refuse(connection, ids, { code: "protocol-version", message });
    } else if (this.#session !== undefined) {
      const message = `${this.#options.host} already serves ${this.#session.peer}; end that protection first`;
      this.#refuse(connection, ids, { code: "busy", message });
    } else {
      this.#session = connection;
      this.#holdAtDoor(connection);
      this.#options.onPrimary(this.#caller(connection, ids, message));
    }
  }

  /** Until it is welcomed, a primary may do no more than be there. */
  #holdAtDoor(connection: Connection): void {
    connection.handOver({
      onMessage: ({ type }) => {
        if (type !== "heartbeat")
          throw new ProtocolError("wrong-order", "message", type, "none before WELCOME");
      },
      onClosed: (reason) => {
        this.#free(connection);
        this.#turnAway("primary-gone", connection.peer, reason.message);
      },
    });
  }

  #caller(connection: Connection, ids: FrameIds, { hello, generation }: MessageOf<"hello">): Caller {
    return {
      peer: connection.peer,
      hello,
      generation,
      welcome: (handlers, disks = []) => {
        const welcome = { host: this.#options.host, generation: this.#options.generation(), disks };
        const now = { vmId: ids.vmId, generation: welcome.generation };
        connection.handOver({
          onMessage: handlers.onMessage,
          onClosed: (reason) => {
            this.#free(connection);
            handlers.onClosed(reason);
          },
        });
        connection.send(encodeWelcome(now, welcome));
        watch(connection, now, handlers.onSilent, this.#signs);
        return connection;
      },
      refuse: (refuse) => this.#refuse(connection, ids, refuse),
      tellTakeover: (epoch) => {
        const now = { vmId: ids.vmId, generation: this.#options.generation() };
        this.#sendOff(connection, encodeTakeover(now, epoch), `taken over as generation ${now.generation}`);
      },
    };
  }

  #refuse(connection: Connection, ids: FrameIds, refuse: Refuse): void {
    this.#sendOff(connection, encodeRefuse(ids, refuse), `${refuse.code}: ${refuse.message}`);
  }

  #sendOff(connection: Connection, lastFrame: Frame, why: string): void {
    if (connection.closed !== undefined) return;
    connection.handOver({ onMessage: () => {}, onClosed: () => this.#free(connection) });
    connection.finish(lastFrame, why);
    this.#turnAway("primary-refused", connection.peer, why);
  }

  #free(connection: Connection): void {
    if (this.#session === connection) this.#session = undefined;
  }

  #turnAway(kind: TurnedAway["kind"], peer: string, message: string): void {
    this.#options.onTurnedAway?.({ kind, peer, message });
  }
}
