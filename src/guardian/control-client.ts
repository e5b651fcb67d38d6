/** The other end of a guardian's control socket. */
import { createConnection, type Socket } from "node:net";
import { createInterface } from "node:readline";

export interface GuardianEvent {
  readonly kind: string;
  readonly phase?: string;
  readonly text?: string;
  readonly about?: string;
  readonly raised?: boolean;
}

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
  readonly event?: GuardianEvent;
}

export class ControlClient {
  private readonly socket: Socket;
  private readonly pending = new Map<number, (answer: Answer) => void>();
  private readonly onEvent: (event: GuardianEvent) => void;
  private nextId = 1;

  private constructor(socket: Socket, onEvent: (event: GuardianEvent) => void) {
    this.socket = socket;
    this.onEvent = onEvent;
    const lines = createInterface({ input: socket });
    lines.on("error", () => {});
    lines.on("line", (line) => this.take(JSON.parse(line) as Answer));
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.left());
  }

  /** Connects to the socket at `path`. Fails when no guardian listens there. */
  static connect(path: string, onEvent: (event: GuardianEvent) => void = () => {}): Promise<ControlClient> {
    const { promise, resolve, reject } = Promise.withResolvers<ControlClient>();
    const socket = createConnection(path);
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(new ControlClient(socket, onEvent));
    });
    return promise;
  }

  /** Gives an order and waits for its answer. Fails with `OrderFailed`. */
  async order<T = unknown>(command: string, args: Record<string, unknown> = {}): Promise<T> {
    const id = this.nextId++;
    const { promise, resolve } = Promise.withResolvers<Answer>();
    this.pending.set(id, resolve);
    if (this.socket.destroyed) this.left();
    else this.socket.write(`${JSON.stringify({ id, command, arguments: args })}\n`);
    const { result, error } = await promise;
    if (error !== undefined) throw new OrderFailed(command, error.code, error.message);
    return result as T;
  }

  close(): void {
    this.socket.destroy();
  }

  private take(answer: Answer): void {
    if (answer.event !== undefined) this.onEvent(answer.event);
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
