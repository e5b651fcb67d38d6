// From addresses to a TCP connection.

import { connect as connectTcp, type Socket } from "node:net";
import { callFrom } from "./callers.ts";
import { type Address, at, LinkError } from "./link-error.ts";

export interface Dialled {
  readonly socket: Socket;
  /** Which of the addresses it leads to. */
  readonly path: number;
}

/** So long the first address is tried alone, and then the next one, too. */
const HEAD_START_MS = 250;

/**
 * The first connection that comes about, tried in order. Rejects with a LinkError that has a sentence for
 * each address.
 * @param from own addresses, one for each, from which the other host knows us
 */
export function dial(
  addresses: readonly Address[],
  timeoutMs: number,
  from: readonly Address[] = [],
): Promise<Dialled> {
  return new Promise((resolve, reject) => {
    const sockets = new Map<number, Socket>();
    const failures: LinkError[] = [];
    let begun = 0;
    const end = (): void => {
      clearTimeout(late);
      clearInterval(next);
      for (const socket of sockets.values()) socket.destroy();
    };
    const failed = (path: number, failure: LinkError): void => {
      sockets.delete(path);
      failures[path] = failure;
      if (begun < addresses.length) begin();
      if (sockets.size > 0) return;
      end();
      reject(together(failures));
    };
    const begin = (): void => {
      const path = begun++;
      const address = addresses[path];
      if (address === undefined) return;
      const socket = connectTcp({
        host: address.host,
        port: address.port,
        noDelay: true,
        ...callFrom(from[path]),
      });
      sockets.set(path, socket);
      socket.once("error", (error) => failed(path, unreachable(address, error)));
      socket.once("connect", () => {
        sockets.delete(path);
        end();
        socket.removeAllListeners("error");
        resolve({ socket, path });
      });
    };
    const late = setTimeout(() => {
      for (const path of sockets.keys()) failures[path] = silent(addresses[path]!, timeoutMs);
      end();
      reject(together(failures));
    }, timeoutMs);
    const next = setInterval(begin, HEAD_START_MS);
    begin();
  });
}

function unreachable(address: Address, cause: NodeJS.ErrnoException): LinkError {
  const what = cause.message || String(cause);
  const todo = "start the backup guardian there, or check address and port";
  return new LinkError("unreachable", `cannot reach backup ${at(address)}: ${what}; ${todo}`, { cause });
}

function silent(address: Address, timeoutMs: number): LinkError {
  const todo = "check the address, the network between the hosts and its firewall";
  return new LinkError("timeout", `backup ${at(address)} did not answer within ${timeoutMs} ms; ${todo}`);
}

function together(failures: readonly LinkError[]): LinkError {
  const [first] = failures;
  if (failures.length === 1) return first!;
  return new LinkError(first!.code, failures.map(({ message }) => message).join("; "), { cause: first });
}
