// Two ends of a link over real TCP on the loopback, and a place to wait for what they hear.

import { once } from "node:events";
import { connect as connectTcp, createServer, type Socket } from "node:net";
import type { TestContext } from "node:test";
import type { MessageOf, MessageType, ReplicationMessage, Role } from "../../src/codec/replication.ts";
import { type ConnectOptions, connect, type LinkHandlers } from "../../src/link/connect.ts";
import { type ClosedReason, Connection } from "../../src/link/connection.ts";
import { type Listener, type ListenOptions, listen, type TurnedAway } from "../../src/link/listen.ts";
import { HELLO, IDS } from "./replication-samples.ts";

/** No test waits longer: a deadline, not a measure. */
export const DEADLINE = { timeout: 20_000 };

/** Everything that one end heard, in order; await the next of a kind. */
export class Heard implements LinkHandlers {
  readonly messages: ReplicationMessage[] = [];
  readonly closed: ClosedReason[] = [];
  readonly silent: number[] = [];
  #waiting: (() => void)[] = [];

  readonly onMessage = (message: ReplicationMessage): void => {
    this.messages.push(message);
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
  readonly connections: Connection[];
  /** Resolves with the nth event of the log. */
  readonly event: (nth: number) => Promise<TurnedAway>;
}

/** A listener that welcomes whoever comes, unless told otherwise. */
export async function backup(t: TestContext, change: Partial<ListenOptions> = {}): Promise<Backup> {
  const heard = new Heard();
  const turnedAway: TurnedAway[] = [];
  const connections: Connection[] = [];
  const wake = new Heard();
  const listener = await listen({
    address: "127.0.0.1",
    port: 0,
    vmId: IDS.vmId,
    host: "host-b",
    generation: () => 7,
    onPrimary: (caller) => connections.push(caller.welcome(heard)),
    onTurnedAway: (event) => {
      turnedAway.push(event);
      wake.onSilent(0);
    },
    ...change,
  });
  t.after(() => {
    listener.close();
    for (const one of connections) one.destroy("the test is over");
  });
  const event = (nth: number) => wake.until(() => turnedAway[nth]);
  return { listener, heard, turnedAway, connections, event };
}

/** A primary connected to `port`, dropped when the test ends. */
export async function primary(t: TestContext, port: number, change: Partial<ConnectOptions> = {}) {
  const heard = new Heard();
  const options = { address: "127.0.0.1", port, ids: IDS, hello: HELLO, handlers: heard, ...change };
  const { connection, welcome } = await connect(options);
  t.after(() => connection.destroy("the test is over"));
  return { connection, welcome, heard };
}
