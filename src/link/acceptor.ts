// The backup's door: takes one primary at a time, turns others away, and drops strangers. Only a caller of
// this VM that comes from the other host's address is told why: a stranger learns no name, number or field
// (callers.ts).

import type { Socket } from "node:net";
import {
  type DiskImage,
  type Hello,
  type MessageOf,
  PROTOCOL_VERSION,
  ProtocolError,
  type Refuse,
} from "../codec/replication.ts";
import {
  encodeJoined,
  encodeRefuse,
  encodeTakeover,
  encodeWelcome,
  type Frame,
} from "../codec/replication-encode.ts";
import { type FrameIds, uuidText, vmIdBytes } from "../codec/replication-header.ts";
import { isPeer, SeldomTold } from "./callers.ts";
import { type ClosedReason, Connection } from "./connection.ts";
import { type Address, at } from "./link-error.ts";
import { checkedSigns, type Liveness } from "./liveness.ts";
import { Session, type SessionHandlers } from "./session.ts";

/**
 * Connections that have not said HELLO yet, of each kind (I6). With one more the oldest goes: who belongs
 * here speaks at once, and is not kept out by those who say nothing.
 */
const MAX_STRANGERS = 64;

export interface AcceptorOptions extends Liveness {
  readonly vmId: Uint8Array;
  /**
   * The other host's addresses: who comes from there is told why he is refused, and has room of his own at
   * the door. Left out: not known.
   */
  readonly peers?: readonly Address[];
  /** This host's name, for WELCOME. */
  readonly host: string;
  /** The generation that this side knows of, for WELCOME and REFUSE. */
  readonly generation: () => number;
  /**
   * A primary of this VM has said HELLO and there is no other. Answer once, now or later: welcome(), refuse()
   * or tellTakeover().
   */
  readonly onPrimary: (caller: Caller) => void;
  /**
   * A primary has asked to join a session that is not served here (any more). Answer with refuse() or
   * tellTakeover(); left out: refused.
   */
  readonly onStray?: (stray: Stray) => void;
  /** For the log: who was turned away or dropped, one event each. */
  readonly onTurnedAway?: (event: TurnedAway) => void;
  readonly helloDeadlineMs?: number;
}

export interface TurnedAway {
  readonly kind: "stranger-dropped" | "primary-refused" | "primary-gone";
  readonly peer: string;
  readonly message: string;
}

/** Somebody who can only be turned away. */
export interface Stray {
  readonly peer: string;
  readonly generation: number;
  /** No protection here. Its VM may run on. */
  refuse(refuse: Refuse): void;
  /** For good: this side runs the VM, as its present generation, from checkpoint `epoch` (I3). */
  tellTakeover(epoch: number): void;
}

/** A primary at the door. */
export interface Caller extends Stray {
  readonly hello: Hello;
  /** At which of the addresses it came in. */
  readonly address: number;
  /**
   * Lets it in, and says what this host has of its disks. If it has gone meanwhile, the handlers hear of it
   * in a microtask.
   */
  welcome(handlers: SessionHandlers, disks?: readonly DiskImage[]): Session;
}

export class Acceptor {
  readonly #options: AcceptorOptions;
  readonly #signs: Required<Liveness>;
  /** They have not said HELLO yet: from the other host's addresses, and from elsewhere. */
  readonly #atHome = new Set<Connection>();
  readonly #strangers = new Set<Connection>();
  readonly #seldom = new SeldomTold();
  /** Whom this host serves, or is about to. */
  #primary: { readonly connection: Connection; session?: Session } | undefined;

  constructor(options: AcceptorOptions) {
    this.#options = options;
    this.#signs = checkedSigns(options);
  }

  /** Drops strangers. */
  close(): void {
    for (const connection of [...this.#atHome, ...this.#strangers]) connection.destroy("the listener closes");
  }

  /** @param address at which it came in */
  accept(socket: Socket, address: number): void {
    const { remoteAddress } = socket;
    const peer = at({ host: remoteAddress, port: socket.remotePort });
    // From another address the primary may come, too, through a proxy or a translator: but he cannot be
    // crowded out where he is known.
    const strangers = isPeer(remoteAddress, this.#options.peers) ? this.#atHome : this.#strangers;
    const [oldest] = strangers;
    if (strangers.size >= MAX_STRANGERS)
      oldest!.destroy(`${peer} and others wait, and this one has said nothing`);
    const deadlineMs = this.#options.helloDeadlineMs ?? 2000;
    const timer = setTimeout(
      () => connection.destroy(`${peer}: no HELLO within ${deadlineMs} ms`),
      deadlineMs,
    );
    const leave = (): void => {
      clearTimeout(timer);
      strangers.delete(connection);
    };
    const handlers = {
      onMessage: (message: unknown): void => {
        leave();
        // The parser lets nothing but these two through as the first message.
        const first = message as MessageOf<"hello"> | MessageOf<"join">;
        if (first.type === "hello") this.#greet(connection, first, address);
        else this.#join(connection, first, address);
      },
      onClosed: (reason: ClosedReason): void => {
        leave();
        this.turnAway("stranger-dropped", peer, reason.message);
      },
    };
    const from = remoteAddress === undefined ? {} : { from: remoteAddress };
    const connection = new Connection(socket, { role: "backup", peer, handlers, ...from });
    strangers.add(connection);
  }

  turnAway(kind: TurnedAway["kind"], peer: string, message: string): void {
    const told = this.#seldom.tell(`${kind} ${peer.replace(/:\d+$/, "")}`, message, performance.now());
    if (told !== undefined) this.#options.onTurnedAway?.({ kind, peer, message: told });
  }

  #greet(connection: Connection, message: MessageOf<"hello">, address: number): void {
    const { hello } = message;
    const ids = this.#idsOf(message);
    const wrongVm = this.#wrongVm(message);
    if (wrongVm !== undefined) {
      this.#refuse(connection, ids, wrongVm);
    } else if (hello.protocol !== PROTOCOL_VERSION) {
      const message = `protocol ${hello.protocol} here meets ${PROTOCOL_VERSION}; run the same Remus on both hosts`;
      this.#refuse(connection, ids, { code: "protocol-version", message });
    } else if (this.#primary !== undefined) {
      const { peer } = this.#primary.connection;
      const message = `${this.#options.host} already serves ${peer}; end that protection first`;
      this.#refuse(connection, ids, { code: "busy", message });
    } else {
      this.#primary = { connection };
      this.#holdAtDoor(connection);
      this.#options.onPrimary(this.#caller(connection, ids, message, address));
    }
  }

  #join(connection: Connection, message: MessageOf<"join">, address: number): void {
    const { path, session: id } = message.join;
    const ids = this.#idsOf(message);
    const session = this.#primary?.session;
    const wrongVm = this.#wrongVm(message);
    if (wrongVm !== undefined) {
      this.#refuse(connection, ids, wrongVm);
    } else if (session === undefined || session.id !== id || session.closed !== undefined) {
      const stray = this.#stray(connection, ids, message.generation);
      const onStray = this.#options.onStray ?? ((one) => one.refuse(NO_SESSION));
      onStray(stray);
    } else if (path !== address || path >= session.paths.length) {
      this.#refuse(connection, ids, wrongPath(this.#options.host, path, address));
    } else {
      connection.send(encodeJoined(ids));
      session.join(path, connection);
    }
  }

  /** The answer speaks of the caller's VM, or the caller could not read it. */
  #idsOf({ vmId }: { readonly vmId: string }): FrameIds {
    return { vmId: vmIdBytes(vmId), generation: this.#options.generation() };
  }

  #wrongVm({ vmId }: { readonly vmId: string }): Refuse | undefined {
    const own = uuidText(this.#options.vmId);
    if (vmId === own) return undefined;
    // For this host's log. The caller hears no word of it.
    return { code: "wrong-vm", message: `this is the backup of VM ${own}, not of ${vmId}` };
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
        this.turnAway("primary-gone", connection.peer, reason.message);
      },
    });
  }

  #caller(
    connection: Connection,
    ids: FrameIds,
    { hello, generation }: MessageOf<"hello">,
    address: number,
  ): Caller {
    return {
      ...this.#stray(connection, ids, generation),
      hello,
      address,
      welcome: (handlers, disks = []) => {
        const welcome = { host: this.#options.host, generation: this.#options.generation(), disks };
        const now = { vmId: ids.vmId, generation: welcome.generation };
        connection.send(encodeWelcome(now, welcome));
        const session = new Session(connection, {
          id: hello.session,
          ids: now,
          paths: hello.paths,
          path: hello.path,
          signs: this.#signs,
          handlers: {
            ...handlers,
            onClosed: (reason) => {
              this.#free(connection);
              handlers.onClosed(reason);
            },
          },
        });
        if (this.#primary?.connection === connection) this.#primary.session = session;
        return session;
      },
    };
  }

  #stray(connection: Connection, ids: FrameIds, generation: number): Stray {
    return {
      peer: connection.peer,
      generation,
      refuse: (refuse) => this.#refuse(connection, ids, refuse),
      tellTakeover: (epoch) => {
        const now = { vmId: ids.vmId, generation: this.#options.generation() };
        this.#sendOff(connection, encodeTakeover(now, epoch), `taken over as generation ${now.generation}`);
      },
    };
  }

  #refuse(connection: Connection, ids: FrameIds, refuse: Refuse): void {
    const knows = refuse.code !== "wrong-vm" && isPeer(connection.from, this.#options.peers);
    const told = knows
      ? encodeRefuse(ids, refuse)
      : encodeRefuse({ vmId: ids.vmId, generation: 0 }, NOT_ACCEPTED);
    this.#sendOff(connection, told, `${refuse.code}: ${refuse.message}`);
  }

  #sendOff(connection: Connection, lastFrame: Frame, why: string): void {
    if (connection.closed !== undefined) return;
    connection.handOver({ onMessage: () => {}, onClosed: () => this.#free(connection) });
    connection.finish(lastFrame, why);
    this.turnAway("primary-refused", connection.peer, why);
  }

  #free(connection: Connection): void {
    if (this.#primary?.connection === connection) this.#primary = undefined;
  }
}

/** All that a stranger hears. */
const NOT_ACCEPTED: Refuse = {
  code: "not-accepted",
  message: "this caller is not accepted; the log of the guardian that refuses says why",
};

/** What a JOIN hears that comes too late. */
export const NO_SESSION: Refuse = {
  code: "no-session",
  message: "that protection is over here, or this guardian was started anew",
};

/** A primary's addresses are in another order than this host's own. */
export function wrongPath(host: string, path: number, address: number): Refuse {
  const message = `path ${path} came in at address ${address} of ${host}; name the addresses of replication.peer there and of replication.listen here in the same order`;
  return { code: "wrong-path", message };
}
