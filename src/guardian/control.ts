/**
 * The guardian's ear: a unix socket on which it takes orders, one JSON object a line (docs/specs/control.md).
 * A connection's requests are answered in the order in which they are done. Whoever says `watch` is sent events as well.
 */
import { mkdirSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { dirname } from "node:path";

/** The caller's mistake, or a state in which the order cannot be carried out. `code` is for programs. */
export class OrderRefused extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.name = "OrderRefused";
    this.code = code;
  }
}

/** Whoever gave an order, for as long as the connection lasts. */
export interface Caller {
  /** `undo` is called when the connection ends. */
  onLeft(undo: () => void): void;
}

export type Order = (args: Readonly<Record<string, unknown>>, caller: Caller) => Promise<unknown> | unknown;

const LONGEST_LINE = 64 * 1024;

export class ControlSocket {
  private readonly path: string;
  private orders: Readonly<Record<string, Order>> = {};
  private readonly server: Server;
  private readonly watchers = new Set<Socket>();

  constructor(path: string) {
    this.path = path;
    this.server = createServer((socket) => this.serve(socket));
  }

  /** Takes these orders from now on; the socket is there from the first time on. Who watches goes on watching. */
  async take(orders: Readonly<Record<string, Order>>): Promise<void> {
    this.orders = orders;
    if (this.server.listening) return;
    // After a start of the host its run directories are not there yet.
    mkdirSync(dirname(this.path), { recursive: true });
    rmSync(this.path, { force: true });
    await new Promise<void>((resolve, reject) => {
      this.server.once("error", reject);
      // Whoever may open it may give every order. It is bound within the call, so nobody sees it with wider rights.
      const before = process.umask(0o177);
      this.server.listen(this.path, resolve);
      process.umask(before);
    });
  }

  /** Sends an event to all who watch. One who does not read is dropped rather than waited for. */
  publish(event: Readonly<Record<string, unknown>>): void {
    const line = `${JSON.stringify({ event })}\n`;
    for (const watcher of this.watchers)
      if (watcher.writableLength > 1 << 20) watcher.destroy();
      else watcher.write(line);
  }

  close(): void {
    this.server.close();
    for (const watcher of this.watchers) watcher.destroy();
    rmSync(this.path, { force: true });
  }

  private serve(socket: Socket): void {
    const undo: (() => void)[] = [];
    const caller: Caller = { onLeft: (one) => undo.push(one) };
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      this.watchers.delete(socket);
      for (const one of undo) one();
    });
    let rest = "";
    socket.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines) void this.answer(socket, line, caller);
      if (rest.length <= LONGEST_LINE) return;
      reply(socket, { error: { code: "too-long", message: `a line may have ${LONGEST_LINE} characters` } });
      // Nothing more is taken from this caller.
      socket.removeAllListeners("data").resume();
      socket.destroySoon();
    });
  }

  private async answer(socket: Socket, line: string, caller: Caller): Promise<void> {
    let id: unknown;
    try {
      const request = parse(line);
      id = request.id;
      if (request.command === "watch") {
        this.watchers.add(socket);
        reply(socket, { id, result: {} });
        return;
      }
      const order = Object.hasOwn(this.orders, request.command) ? this.orders[request.command] : undefined;
      if (order === undefined)
        throw new OrderRefused(
          "unknown-command",
          `"${request.command}" is no order; there are: watch, ${Object.keys(this.orders).join(", ")}`,
        );
      reply(socket, { id, result: (await order(request.args, caller)) ?? {} });
    } catch (error) {
      const code = error instanceof OrderRefused ? error.code : "failed";
      reply(socket, { id, error: { code, message: (error as Error).message } });
    }
  }
}

function parse(line: string): { id: unknown; command: string; args: Record<string, unknown> } {
  if (line.length > LONGEST_LINE)
    throw new OrderRefused("too-long", `a line may have ${LONGEST_LINE} characters`);
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new OrderRefused("bad-request", "the line is not JSON");
  }
  const { id, command, arguments: args } = (value ?? {}) as Record<string, unknown>;
  if (typeof command !== "string") throw new OrderRefused("bad-request", '"command" is missing or no text');
  if (args !== undefined && (typeof args !== "object" || args === null))
    throw new OrderRefused("bad-request", '"arguments" must be an object');
  return { id, command, args: (args ?? {}) as Record<string, unknown> };
}

function reply(socket: Socket, answer: Record<string, unknown>): void {
  if (!socket.destroyed) socket.write(`${JSON.stringify(answer)}\n`);
}
