// The primary's way to its backup: TCP, HELLO, WELCOME.

import { connect as connectTcp } from "node:net";
import type { Hello, Refuse, ReplicationMessage, Welcome } from "../codec/replication.ts";
import { encodeHello } from "../codec/replication-encode.ts";
import type { FrameIds } from "../codec/replication-header.ts";
import { type ClosedReason, Connection, type ConnectionHandlers } from "./connection.ts";
import { checkedSigns, type SignsOfLife, watch } from "./heartbeat.ts";

export interface LinkHandlers extends ConnectionHandlers {
  /** Nothing was heard for the detection time. Once per silence; the connection stays open. */
  readonly onSilent: (silentMs: number) => void;
}

export interface ConnectOptions extends SignsOfLife {
  readonly address: string;
  readonly port: number;
  readonly ids: FrameIds;
  readonly hello: Hello;
  /** They hear of everything after WELCOME. Before it, errors reject the promise. */
  readonly handlers: LinkHandlers;
  /** For TCP and WELCOME together. */
  readonly timeoutMs?: number;
}

export interface BackupLink {
  readonly connection: Connection;
  readonly welcome: Welcome;
}

export type LinkErrorCode = "unreachable" | "timeout" | "refused" | "taken-over" | "closed" | "cannot-listen";

interface LinkErrorOptions extends ErrorOptions {
  readonly refuse?: Refuse;
  readonly generation?: number;
}

/** The link could not be made. The sentence says who, where and what to do. */
export class LinkError extends Error {
  override readonly name = "LinkError";
  readonly code: LinkErrorCode;
  /** What the backup said, with code "refused". */
  readonly refuse: Refuse | undefined;
  /** With code "taken-over": the generation as which the other side runs the VM. */
  readonly generation: number | undefined;

  constructor(code: LinkErrorCode, message: string, options?: LinkErrorOptions) {
    super(message, options);
    this.code = code;
    this.refuse = options?.refuse;
    this.generation = options?.generation;
  }
}

/** Connects to the backup's guardian and is welcomed, or rejects with a LinkError (RangeError: wrong options). */
export function connect(options: ConnectOptions): Promise<BackupLink> {
  const { address, port, ids, handlers, timeoutMs = 5000 } = options;
  const peer = `backup ${at(address, port)}`;
  return new Promise((resolve, reject) => {
    const signs = checkedSigns(options);
    const socket = connectTcp({ host: address, port, noDelay: true });
    let connected = false;
    const fail = (error: LinkError): void => {
      clearTimeout(timer);
      reject(error);
      connection.destroy(error.message);
    };
    const timer = setTimeout(() => fail(timedOut(peer, connected, timeoutMs)), timeoutMs);
    const onMessage = (message: ReplicationMessage): void => {
      if (message.type === "heartbeat") return;
      if (message.type !== "welcome") {
        fail(notWelcome(peer, message));
        return;
      }
      clearTimeout(timer);
      connection.handOver(handlers);
      watch(connection, ids, handlers.onSilent, signs);
      resolve({ connection, welcome: message.welcome });
    };
    const onClosed = (reason: ClosedReason): void => fail(closedEarly(peer, connected, reason));
    const early = { onMessage, onClosed };
    const connection = new Connection(socket, { role: "primary", vmId: ids.vmId, peer, handlers: early });
    socket.once("connect", () => {
      connected = true;
      connection.send(encodeHello(ids, options.hello));
    });
  });
}

/** "10.0.0.1:7000", "[fd00::1]:7000" */
export function at(address: string | undefined, port: number | undefined): string {
  return address?.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}

function timedOut(peer: string, connected: boolean, timeoutMs: number): LinkError {
  const message = connected
    ? `${peer} took the connection but did not answer HELLO within ${timeoutMs} ms; see the log of the guardian there, or check that the port is its replication port`
    : `${peer} did not answer within ${timeoutMs} ms; check the address, the network between the hosts and its firewall`;
  return new LinkError("timeout", message);
}

function notWelcome(peer: string, message: ReplicationMessage): LinkError {
  if (message.type === "refuse") {
    const { refuse } = message;
    return new LinkError("refused", `${peer} refuses (${refuse.code}): ${refuse.message}`, { refuse });
  }
  if (message.type === "takeover") {
    const says = `it runs the VM as generation ${message.generation}`;
    return new LinkError("taken-over", `${peer} has taken over: ${says}; this copy must stay stopped`, {
      generation: message.generation,
    });
  }
  return new LinkError("closed", `${peer} answered HELLO with ${message.type}, expected welcome or refuse`);
}

function closedEarly(peer: string, connected: boolean, reason: ClosedReason): LinkError {
  const cause = "cause" in reason ? { cause: reason.cause } : {};
  if (connected) return new LinkError("closed", `no welcome from ${peer}: ${reason.message}`, cause);
  const what = reason.kind === "broken" ? reason.cause.message || String(reason.cause) : reason.message;
  const todo = "start the backup guardian there, or check address and port";
  return new LinkError("unreachable", `cannot reach ${peer}: ${what}; ${todo}`, cause);
}
