/** In place of `node:net`, for the link: sockets over the made-up network. */
import { SimServer } from "../world/network.ts";
import { theWorld } from "../world/present.ts";
import type { SimSocket } from "../world/socket.ts";

export function connect({ host }: { host: string; port: number }): SimSocket {
  return theWorld().network.connect(host);
}

export function createServer(_options: unknown, onSocket: (socket: SimSocket) => void): SimServer {
  return new SimServer(theWorld().network, onSocket);
}
