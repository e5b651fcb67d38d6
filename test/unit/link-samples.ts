// Two ends of a link over real TCP on the loopback, and a place to wait for what they hear.

import { once } from "node:events";
import { connect as connectTcp, createServer, type Socket } from "node:net";
import type { TestContext } from "node:test";
import type { MessageOf, MessageType, ReplicationMessage, Role } from "../../src/codec/replication.ts";
import { type ConnectOptions, connect } from "../../src/link/connect.ts";
import { type ClosedReason, Connection } from "../../src/link/connection.ts";
import { type Listener, type ListenOptions, listen, type TurnedAway } from "../../src/link/listen.ts";
import type { PathEvent, Session, SessionHandlers } from "../../src/link/session.ts";
import { HELLO, IDS } from "./replication-samples.ts";

/** No test waits longer: a deadline, not a measure. */
export const DEADLINE = { timeout: 20_000 };

/** Everything that one end heard, in order; await the next of a kind. */
export class Heard implements SessionHandlers {
  readonly messages: ReplicationMessage[] = [];
  readonly closed: ClosedReason[] = [];
  readonly silent: number[] = [];
  readonly paths: PathEvent[] = [];
  /** Takes messages in the place of `messages`, and may throw as a handler may. */
  filter: ((message: ReplicationMessage) => void) | undefined;
  #waiting: (() => void)[] = [];

  readonly onMessage = (message: ReplicationMessage): void => {
    if (this.filter === undefined) this.messages.push(message);
    else this.filter(message);
    this.#wake();
  };
  readonly onClosed = (reason: ClosedReason): void => {
    this.closed.push(reason);
    this.#wake();
  };
  readonly onSilent = (silentMs: number): void => {
    this.silent.push(silentMs);
    this.#wake();
  };

  readonly onPath = (event: PathEvent): void => {
    this.paths.push(event);
    this.#wake();
  };

  async until<T>(what: () => T | undefined): Promise<T> {
    for (;;) {
      const found = what();
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  message<T extends MessageType>(type: T, nth = 0): Promise<MessageOf<T>> {
    const ofType = (m: ReplicationMessage): m is MessageOf<T> => m.type === type;
    return this.until(() => this.messages.filter(ofType)[nth]);
  }

  end(): Promise<ClosedReason> {
    return this.until(() => this.closed[0]);
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

/** Two connected sockets, closed when the test ends. */
export async function sockets(t: TestContext): Promise<[Socket, Socket]> {
  const server = createServer();
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address() as { port: number };
  const accepted = once(server, "connection");
  const one = connectTcp(port, "127.0.0.1");
  await once(one, "connect");
  const [two] = (await accepted) as [Socket];
  server.close();
  t.after(() => {
    one.destroy();
    two.destroy();
  });
  return [one, two];
}

export function connection(socket: Socket, role: Role, heard: Heard, maxBufferedBytes?: number): Connection {
  const vmId = role === "primary" ? { vmId: IDS.vmId } : {};
  const bound = maxBufferedBytes === undefined ? {} : { maxBufferedBytes };
  return new Connection(socket, { role, peer: `the ${role}'s peer`, handlers: heard, ...vmId, ...bound });
}

export interface Backup {
  readonly listener: Listener;
  readonly heard: Heard;
  readonly turnedAway: TurnedAway[];
  readonly sessions: Session[];
  /** Resolves with the nth event of the log. */
  readonly event: (nth: number) => Promise<TurnedAway>;
}

/** A listener that welcomes whoever comes, unless told otherwise. */
export async function backup(t: TestContext, change: Partial<ListenOptions> = {}): Promise<Backup> {
  const heard = new Heard();
  const turnedAway: TurnedAway[] = [];
  const sessions: Session[] = [];
  const wake = new Heard();
  const listener = await listen({
    addresses: [{ host: "127.0.0.1", port: 0 }],
    vmId: IDS.vmId,
    peers: [{ host: "127.0.0.1", port: 0 }],
    host: "host-b",
    generation: () => 7,
    onPrimary: (caller) => sessions.push(caller.welcome(heard)),
    onTurnedAway: (event) => {
      turnedAway.push(event);
      wake.onSilent(0);
    },
    ...change,
  });
  t.after(() => {
    listener.close();
    for (const one of sessions) one.destroy("the test is over");
  });
  const event = (nth: number) => wake.until(() => turnedAway[nth]);
  return { listener, heard, turnedAway, sessions, event };
}

/** A primary connected to these ports, one for each path; dropped when the test ends. */
export async function primary(
  t: TestContext,
  ports: readonly number[],
  change: Partial<ConnectOptions> = {},
) {
  const heard = new Heard();
  const options = { addresses: local(ports), ids: IDS, hello: HELLO, handlers: heard, ...change };
  const { session, welcome } = await connect(options);
  t.after(() => session.destroy("the test is over"));
  return { session, welcome, heard };
}

export function local(ports: readonly number[]): { host: string; port: number }[] {
  return ports.map((port) => ({ host: "127.0.0.1", port }));
}
