// The first words on a path, at the primary: HELLO or JOIN, and what comes back.

import type { MessageType, ReplicationMessage, Role } from "../codec/replication.ts";
import type { Frame } from "../codec/replication-encode.ts";
import type { FrameIds } from "../codec/replication-header.ts";
import { type ClosedReason, Connection } from "./connection.ts";
import type { Dialled } from "./dial.ts";
import { type Address, at, LinkError } from "./link-error.ts";

export interface Handshake<T extends MessageType, R> {
  readonly ids: FrameIds;
  readonly frame: Frame;
  /** What the backup says if it agrees. */
  readonly expects: T;
  /** For this and what came before it, since `sinceMs`. */
  readonly timeoutMs: number;
  readonly sinceMs: number;
  /**
   * Called within the message itself, so that nothing that comes behind it is missed: the connection is to be
   * handed over here.
   */
  readonly onAgreed: (connection: Connection, message: ReplicationMessage & { readonly type: T }) => R;
}

/**
 * Says it and waits for the answer; resolves with what onAgreed gives. Rejects with a LinkError if the answer
 * is another one, or none comes.
 */
export function shakeHands<T extends MessageType, R>(
  { socket, address }: Pick<Dialled, "socket"> & { readonly address: Address },
  { ids, frame, expects, timeoutMs, sinceMs, onAgreed }: Handshake<T, R>,
): Promise<R> {
  const peer = `backup ${at(address)}`;
  const role: Role = "primary";
  return new Promise((resolve, reject) => {
    const fail = (error: LinkError): void => {
      clearTimeout(timer);
      reject(error);
      connection.destroy(error.message);
    };
    const late = (): void => fail(unanswered(peer, frame.type, timeoutMs));
    const timer = setTimeout(late, Math.max(1, sinceMs + timeoutMs - performance.now()));
    const onMessage = (message: ReplicationMessage): void => {
      if (message.type === "heartbeat") return;
      if (!isOf(expects, message)) {
        fail(disagreed(peer, frame.type, message));
        return;
      }
      clearTimeout(timer);
      resolve(onAgreed(connection, message));
    };
    const onClosed = (reason: ClosedReason): void => fail(closedEarly(peer, expects, reason));
    const connection = new Connection(socket, {
      role,
      vmId: ids.vmId,
      peer,
      handlers: { onMessage, onClosed },
    });
    connection.send(frame);
  });
}

function isOf<T extends MessageType>(
  type: T,
  message: ReplicationMessage,
): message is ReplicationMessage & { readonly type: T } {
  return message.type === type;
}

function unanswered(peer: string, said: MessageType, timeoutMs: number): LinkError {
  const message = `${peer} took the connection but did not answer ${said.toUpperCase()} within ${timeoutMs} ms; see the log of the guardian there, or check that the port is its replication port`;
  return new LinkError("timeout", message);
}

function disagreed(peer: string, said: MessageType, message: ReplicationMessage): LinkError {
  if (message.type === "refuse") {
    const { refuse } = message;
    return new LinkError("refused", `${peer} refuses (${refuse.code}): ${refuse.message}`, { refuse });
  }
  if (message.type === "takeover") {
    const says = `it runs the VM as generation ${message.generation}`;
    return new LinkError("taken-over", `${peer} has taken over: ${says}; this copy must stay stopped`, {
      takeover: message,
    });
  }
  const expected = "expected agreement or refuse";
  return new LinkError("closed", `${peer} answered ${said.toUpperCase()} with ${message.type}, ${expected}`);
}

function closedEarly(peer: string, expects: MessageType, reason: ClosedReason): LinkError {
  const cause = "cause" in reason ? { cause: reason.cause } : {};
  return new LinkError("closed", `no ${expects} from ${peer}: ${reason.message}`, cause);
}
