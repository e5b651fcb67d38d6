/** The witness's server: claims over HTTP, one JSON object in each direction (docs/specs/witness.md). */
import { createHash, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import {
  createServer as createPlain,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import { createServer as createSecure } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import type { Claim } from "../core/arbiter.ts";
import type { ClaimFile } from "./claim-file.ts";
import { asClaim, isVmId, MAX_GENERATION } from "./register.ts";

export interface ServerOptions {
  readonly claims: ClaimFile;
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  /** What askers must show; left out, everybody may claim. */
  readonly token?: string;
  /** PEM. Left out, it is plain HTTP. */
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer };
  /**
   * With one more the oldest goes: a host has its answer at once, and is not kept out by those who say
   * nothing.
   */
  readonly mostConnections?: number;
  /** The file cannot be written. If it is broken, nobody gets an answer any more. */
  readonly onFailure: (error: Error) => void;
}

const MOST_REQUEST_BYTES = 4096;
const MOST_CONNECTIONS = 500;
const REQUEST_MS = 10_000;

/** The asker's mistake. */
class Refused extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

export class WitnessServer {
  private readonly options: ServerOptions;
  private readonly server: Server;
  private readonly connections = new Set<Socket>();

  private constructor(options: ServerOptions) {
    const serve = (request: IncomingMessage, response: ServerResponse) => void this.serve(request, response);
    const limits = {
      requestTimeout: REQUEST_MS,
      headersTimeout: REQUEST_MS,
      connectionsCheckingInterval: 1000,
    };
    this.options = options;
    this.server =
      options.tls === undefined
        ? createPlain(limits, serve)
        : createSecure({ ...limits, ...options.tls, handshakeTimeout: REQUEST_MS }, serve);
    this.server.on("connection", (socket: Socket) => this.take(socket));
  }

  private take(socket: Socket): void {
    const [oldest] = this.connections;
    const { mostConnections: most = MOST_CONNECTIONS } = this.options;
    if (oldest !== undefined && this.connections.size >= most) {
      this.connections.delete(oldest);
      oldest.destroy();
    }
    this.connections.add(socket);
    socket.once("close", () => this.connections.delete(socket));
  }

  /** Resolves when it listens. */
  static async start(options: ServerOptions): Promise<WitnessServer> {
    const witness = new WitnessServer(options);
    witness.server.listen(options.port, options.host);
    await once(witness.server, "listening");
    return witness;
  }

  get url(): string {
    const { address, family, port } = this.server.address() as AddressInfo;
    const host = family === "IPv6" ? `[${address}]` : address;
    return `${this.options.tls === undefined ? "http" : "https"}://${host}:${port}`;
  }

  /** Cuts all connections off. Who has had no answer asks again. */
  async close(): Promise<void> {
    const closed = once(this.server, "close");
    this.server.close();
    this.server.closeAllConnections();
    await closed;
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      this.authorize(request.headers.authorization);
      const answer = route(request);
      const newest = await answer(this.options.claims, parse(await read(request)));
      reply(response, 200, { newest: newest ?? null });
    } catch (error) {
      if (error instanceof Refused) reply(response, error.status, { error: error.message });
      else if (request.destroyed && !request.complete) response.destroy();
      else {
        reply(response, 503, { error: (error as Error).message });
        this.options.onFailure(error as Error);
      }
    }
  }

  private authorize(header: string | undefined): void {
    const { token } = this.options;
    if (token === undefined || same(header ?? "", `Bearer ${token}`)) return;
    throw new Refused(
      401,
      "the token is missing or wrong; hosts need the one that the witness was started with",
    );
  }
}

type Order = (claims: ClaimFile, body: Readonly<Record<string, unknown>>) => Promise<Claim | undefined>;

const orders: Readonly<Record<string, Order>> = {
  "/v1/claim": (claims, body) => {
    const vm = vmIn(body);
    let claim: Claim;
    try {
      claim = asClaim(body, "the request");
    } catch {
      throw new Refused(
        400,
        '"generation" must be a whole number from 0, "host" up to 253 printable ASCII characters',
      );
    }
    // One that no host can go beyond would be the VM's last.
    if (claim.generation > MAX_GENERATION)
      throw new Refused(400, `"generation" must be at most ${MAX_GENERATION}`);
    return claims.claim(vm, claim);
  },
  "/v1/newest": (claims, body) => claims.newest(vmIn(body)),
  "/v1/check": async (claims, body) => {
    await claims.check();
    return await claims.newest(vmIn(body));
  },
};

function route({ method, url }: IncomingMessage): Order {
  const order = Object.hasOwn(orders, url!) ? orders[url!]! : undefined;
  if (order === undefined)
    throw new Refused(404, `there is no ${url}; there are: ${Object.keys(orders).join(", ")}`);
  if (method !== "POST") throw new Refused(405, `${url} takes POST only`);
  return order;
}

async function read(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MOST_REQUEST_BYTES) throw new Refused(413, `a request may have ${MOST_REQUEST_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function parse(text: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Refused(400, "the request is no JSON");
  }
  if (typeof value !== "object" || value === null)
    throw new Refused(400, "the request must be a JSON object");
  return value as Record<string, unknown>;
}

function vmIn({ vm }: Readonly<Record<string, unknown>>): string {
  if (isVmId(vm)) return vm;
  throw new Refused(400, '"vm" must be a UUID in lower case');
}

function reply(response: ServerResponse, status: number, body: object): void {
  const text = `${JSON.stringify(body)}\n`;
  // The rest of a request that was not read cannot be told from the next one.
  response.writeHead(status, { "content-type": "application/json", connection: "close" });
  response.end(text);
}

/** Takes the same time whatever the difference. */
function same(a: string, b: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}
