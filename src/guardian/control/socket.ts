/**
 * The guardian's ear: a unix socket on which it takes orders, one JSON object a line (docs/specs/control.md).
 * A connection's requests are answered in the order in which they are done. Whoever says `watch` is sent
 * events as well.
 */
import { mkdirSync, rmSync, statSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { dirname } from "node:path";
import { type Caller, ControlConnection, idOf, LONGEST_LINE } from "./connection.ts";
import type { GuardianEvent } from "./events.ts";
import { OrderRefused } from "./refusal.ts";
import { CONTROL_VERSION, type Request, request } from "./requests.ts";

export type { Caller };

export type Order = (args: Readonly<Record<string, unknown>>, caller: Caller) => Promise<unknown> | unknown;

/** More are turned away, unless one that waits for nothing can be sent away instead. */
const MOST_CONNECTIONS = 64;
/**
 * Whoever tidies up run directories, a service manager or a person, leaves a guardian that nobody can reach.
 */
const LOOK_EVERY_MS = 2_000;

export class ControlSocket {
  private readonly path: string;
  private orders: Readonly<Record<string, Order>> = {};
  private readonly warn: (text: string) => void;
  private readonly everyMs: number;
  private server: Server | undefined;
  /** The file that is this socket. */
  private inode: bigint | undefined;
  private timer: NodeJS.Timeout | undefined;
  private readonly connections = new Set<ControlConnection>();

  /** @param warn is told when the socket had to be made again */
  constructor(path: string, warn: (text: string) => void = () => {}, everyMs = LOOK_EVERY_MS) {
    this.path = path;
    this.warn = warn;
    this.everyMs = everyMs;
  }

  /**
   * Takes these orders from now on; the socket is there from the first time on. Who watches goes on watching.
   */
  async take(orders: Readonly<Record<string, Order>>): Promise<void> {
    this.orders = orders;
    if (this.server !== undefined) return;
    await this.listen();
    this.lookLater();
  }

  private async listen(): Promise<void> {
    // A caller may close its half, and still wait for answers.
    const server = createServer({ allowHalfOpen: true }, (socket) => this.serve(socket));
    // After a start of the host its run directories are not there yet.
    mkdirSync(dirname(this.path), { recursive: true });
    rmSync(this.path, { force: true });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      // Whoever may open it may give every order. It is bound within the call, so nobody sees it with wider
      // rights.
      const before = process.umask(0o177);
      server.listen(this.path, resolve);
      process.umask(before);
    });
    server.removeAllListeners("error");
    // A caller who could not be taken in costs no more than that.
    server.on("error", ({ message }) =>
      this.publish({
        kind: "report",
        level: "warn",
        text: `a caller of the control socket is lost: ${message}`,
      }),
    );
    this.server = server;
    this.inode = inodeOf(this.path);
  }

  private lookLater(): void {
    this.timer = setTimeout(() => void this.look(), this.everyMs);
    this.timer.unref();
  }

  /** Callers that are connected stay so. */
  private async look(): Promise<void> {
    if (inodeOf(this.path) !== this.inode) {
      // Before the new one is there: Node removes the file of a server that is closed.
      this.server?.close();
      this.inode = undefined;
      await this.listen().then(
        () => this.warn(`somebody has removed ${this.path}; it is there again`),
        // It is tried again.
        () => {},
      );
    }
    if (this.timer !== undefined) this.lookLater();
    else this.close();
  }

  /** Sends an event to all who watch. One who does not read is dropped rather than waited for. */
  publish(event: GuardianEvent): void {
    for (const one of this.connections) if (one.watches) one.say({ event });
  }

  close(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.server?.close();
    for (const one of this.connections) one.close();
    rmSync(this.path, { force: true });
  }

  private serve(socket: Socket): void {
    const connection: ControlConnection = new ControlConnection(socket, {
      answer: (line, caller) => this.answer(connection, line, caller),
      onClosed: () => this.connections.delete(connection),
    });
    if (this.connections.size >= MOST_CONNECTIONS && !this.makeRoom()) {
      const message = `${MOST_CONNECTIONS} callers are connected, and all wait for something; end one of them`;
      connection.dismiss({ error: { code: "too-many", message } });
      return;
    }
    this.connections.add(connection);
  }

  /**
   * Sends the one away that has been idle for longest: callers that are forgotten must not keep an operator
   * out.
   */
  private makeRoom(): boolean {
    const idle = [...this.connections]
      .filter(({ idleSinceMs }) => idleSinceMs !== undefined)
      .sort((one, other) => one.idleSinceMs! - other.idleSinceMs!);
    idle[0]?.dismiss({
      error: { code: "too-many", message: "others want in, and this one waits for nothing" },
    });
    if (idle[0] !== undefined) this.connections.delete(idle[0]);
    return idle[0] !== undefined;
  }

  private async answer(
    connection: ControlConnection,
    line: string,
    caller: Caller,
  ): Promise<Record<string, unknown>> {
    try {
      const { arguments: args, command, id } = parse(line);
      if (command === "watch") {
        connection.watches = true;
        return { id, result: {} };
      }
      const order = Object.hasOwn(this.orders, command) ? this.orders[command] : undefined;
      if (order === undefined)
        throw new OrderRefused(
          "unknown-command",
          `"${command}" is no order; there are: watch, ${Object.keys(this.orders).join(", ")}`,
        );
      return { id, result: (await order(args, caller)) ?? {} };
    } catch (error) {
      const code = error instanceof OrderRefused ? error.code : "failed";
      return { ...idOf(line), error: { code, message: (error as Error).message } };
    }
  }
}

/** Undefined where it is not there or cannot be reached. */
function inodeOf(path: string): bigint | undefined {
  try {
    return statSync(path, { bigint: true }).ino;
  } catch {
    return undefined;
  }
}

function parse(line: string): Request {
  if (line.length > LONGEST_LINE)
    throw new OrderRefused("too-long", `a line may have ${LONGEST_LINE} characters`);
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new OrderRefused("bad-request", "the line is not JSON");
  }
  const { success, data, error } = request.safeParse(value ?? {});
  if (!success) throw new OrderRefused("bad-request", error.issues[0]!.message);
  if (data.version !== undefined && data.version !== CONTROL_VERSION)
    throw new OrderRefused(
      "wrong-version",
      `this guardian speaks version ${CONTROL_VERSION} of its control socket's language, and the caller was written for ${data.version}; take the tools that came with this guardian`,
    );
  return data;
}
