/** The other end of a guardian's control socket. */
import { createConnection, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { event, type HeardEvent } from "./events.ts";
import { type ArgumentsOf, type Command, orders, type ResultOf } from "./orders.ts";
import { CONTROL_VERSION } from "./requests.ts";
import type { BackupStatus, PrimaryStatus, Status } from "./status.ts";

/** The guardian refused an order. */
export class OrderFailed extends Error {
  readonly code: string;
  constructor(command: string, code: string, message: string) {
    super(`${command}: ${message}`);
    this.name = "OrderFailed";
    this.code = code;
  }
}

interface Answer {
  readonly id?: number;
  readonly result?: unknown;
  readonly error?: { code: string; message: string };
  readonly event?: unknown;
}

export class ControlClient {
  private readonly socket: Socket;
  private readonly pending = new Map<number, (answer: Answer) => void>();
  private readonly onEvent: (event: HeardEvent) => void;
  private nextId = 1;

  private constructor(socket: Socket, onEvent: (event: HeardEvent) => void) {
    this.socket = socket;
    this.onEvent = onEvent;
    const lines = createInterface({ input: socket });
    lines.on("error", () => {});
    lines.on("line", (line) => this.take(JSON.parse(line) as Answer));
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.left());
  }

  /**
   * Connects to the socket at `path`. Fails when no guardian listens there.
   * @param onEvent is told of events once `watch` was asked for; kinds that this client does not know are
   * passed over
   */
  static connect(path: string, onEvent: (event: HeardEvent) => void = () => {}): Promise<ControlClient> {
    const { promise, resolve, reject } = Promise.withResolvers<ControlClient>();
    const socket = createConnection(path);
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(new ControlClient(socket, onEvent));
    });
    return promise;
  }

  /**
   * Gives an order and waits for its answer. Fails with `OrderFailed`; its code is `not-understood` if the
   * answer is not what this version has.
   */
  async order<C extends Command>(
    command: C,
    ...[args]: Record<string, never> extends ArgumentsOf<C> ? [ArgumentsOf<C>?] : [ArgumentsOf<C>]
  ): Promise<ResultOf<C>> {
    const result = await this.ask(command, args ?? {}, CONTROL_VERSION);
    const { success, data, error } = orders[command].result.safeParse(result);
    if (success) return data as unknown as ResultOf<C>;
    const { message, path } = error.issues[0]!;
    throw new OrderFailed(
      command,
      "not-understood",
      `the guardian's answer has ${path.join(".")}: ${message}`,
    );
  }

  /** Events follow, from here on. */
  async watch(): Promise<void> {
    await this.ask("watch");
  }

  status(): Promise<Status> {
    return this.order("status");
  }

  /**
   * Of a primary or a backup. Fails with `OrderFailed` and the code `wrong-role` while it has no role yet.
   */
  async statusInRole(): Promise<PrimaryStatus | BackupStatus> {
    const status = await this.status();
    if (status.role === "starting") throw wrongRole(status, "primary or backup");
    return status;
  }

  /** Fails with `OrderFailed` and the code `wrong-role` if it is none. */
  async primaryStatus(): Promise<PrimaryStatus> {
    const status = await this.status();
    if (status.role !== "primary") throw wrongRole(status, "primary");
    return status;
  }

  /** Fails with `OrderFailed` and the code `wrong-role` if it is none. */
  async backupStatus(): Promise<BackupStatus> {
    const status = await this.status();
    if (status.role !== "backup") throw wrongRole(status, "backup");
    return status;
  }

  /** Any order, as it is: nothing about it is known here. Fails with `OrderFailed`. */
  async ask(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    version?: number,
  ): Promise<unknown> {
    const id = this.nextId++;
    const { promise, resolve } = Promise.withResolvers<Answer>();
    this.pending.set(id, resolve);
    if (this.socket.destroyed) this.left();
    else this.socket.write(`${JSON.stringify({ id, version, command, arguments: args })}\n`);
    const { result, error } = await promise;
    if (error !== undefined) throw new OrderFailed(command, error.code, error.message);
    return result;
  }

  close(): void {
    this.socket.destroy();
  }

  private take(answer: Answer): void {
    if (answer.event !== undefined) {
      const { success, data } = event.safeParse(answer.event);
      if (success) this.onEvent(data);
    }
    if (answer.id === undefined) return;
    this.pending.get(answer.id)?.(answer);
    this.pending.delete(answer.id);
  }

  private left(): void {
    const error = { code: "gone", message: "the guardian closed the connection" };
    for (const settle of this.pending.values()) settle({ error });
    this.pending.clear();
  }
}

function wrongRole({ role }: Status, wanted: string): OrderFailed {
  return new OrderFailed("status", "wrong-role", `this guardian's role is ${role}, not ${wanted}`);
}
