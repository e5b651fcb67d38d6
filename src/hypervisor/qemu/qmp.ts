/**
 * A client of QEMU's machine protocol: JSON lines over a unix socket.
 * Commands are answered in order; out-of-band ones may overtake. Source: QEMU docs/interop/qmp-spec.
 */
import { createConnection, type Socket } from "node:net";
import { sendWithDescriptor } from "../../os/socket.ts";
import { QmpClosed, QmpError } from "./qmp-errors.ts";

export { QmpClosed, QmpError } from "./qmp-errors.ts";

type EventListener = (data: unknown, timestampUs: number) => void;

interface Pending {
  readonly command: string;
  readonly resolve: (value: never) => void;
  readonly reject: (error: Error) => void;
}

interface Message {
  readonly QMP?: {
    version: { qemu: { major: number; minor: number; micro: number }; package?: string };
    capabilities: string[];
  };
  readonly event?: string;
  readonly data?: unknown;
  readonly timestamp?: { seconds: number; microseconds: number };
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { class: string; desc: string };
}

export class Qmp {
  private readonly socket: Socket;
  private readonly pending = new Map<number, Pending>();
  private readonly listeners = new Map<string, EventListener[]>();
  private readonly greeted: (message: Message) => void;
  private nextId = 1;
  private rest = "";
  private closedBecause: string | undefined;
  private explanation: () => Promise<string | undefined> = async () => undefined;
  private oob = false;
  private versionText = "";
  private packageText = "";

  private constructor(socket: Socket, greeted: (message: Message) => void) {
    this.socket = socket;
    this.greeted = greeted;
    socket.setEncoding("utf8");
    socket.on("data", (text) => this.read(String(text)));
    socket.on("error", (error) => this.end(error.message));
    socket.on("close", () => this.end("QEMU closed it"));
  }

  /**
   * Connects to the monitor at `path`, retrying until QEMU has opened it or `timeoutMs` (default 10000) is
   * over.
   */
  static async connect(path: string, options: { oob?: boolean; timeoutMs?: number } = {}): Promise<Qmp> {
    const deadline = Date.now() + (options.timeoutMs ?? 10_000);
    const socket = await connectWithin(path, deadline);
    const { promise, resolve, reject } = Promise.withResolvers<Message>();
    const timer = setTimeout(
      () => reject(new QmpClosed(`no greeting from ${path}; is another client connected to it?`)),
      Math.max(0, deadline - Date.now()),
    );
    const qmp = new Qmp(socket, resolve);
    qmp.on("closed", () => reject(new QmpClosed(`${path} was closed before the greeting`)));
    try {
      const { QMP } = await promise;
      const { major, minor, micro } = QMP!.version.qemu;
      qmp.versionText = `${major}.${minor}.${micro}`;
      qmp.packageText = QMP!.version.package ?? "";
      qmp.oob = options.oob === true && QMP!.capabilities.includes("oob");
      await qmp.execute("qmp_capabilities", qmp.oob ? { enable: ["oob"] } : {});
      return qmp;
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The version of QEMU, as `7.2.22`. */
  get version(): string {
    return this.versionText;
  }

  /** The distribution's package that it comes from, as that calls it; empty where QEMU does not know. */
  get package(): string {
    return this.packageText;
  }

  /** Whether commands out of band are taken: asked for at connect, and offered by QEMU. */
  get takesOob(): boolean {
    return this.oob;
  }

  /** Runs a command. Fails with `QmpError` when QEMU refuses it, with `QmpClosed` when QEMU goes away. */
  execute<T = unknown>(command: string, args: Record<string, unknown> = {}): Promise<T> {
    return this.request<T>("execute", command, args);
  }

  /** Runs a command out of band: it is answered even while QEMU's main loop is blocked. Needs `takesOob`. */
  executeOob<T = unknown>(command: string, args: Record<string, unknown> = {}): Promise<T> {
    return this.request<T>("exec-oob", command, args);
  }

  /**
   * Hands QEMU a copy of descriptor `fd` under `name` (QMP `getfd`). The caller still owns and closes its
   * own.
   */
  passDescriptor(name: string, fd: number): Promise<unknown> {
    const handle = (this.socket as unknown as { _handle?: { fd: number } })._handle;
    if (handle === undefined || this.socket.writableLength > 0)
      return Promise.reject(new QmpClosed("the socket is not free to pass a descriptor"));
    const { id, promise } = this.expect("getfd");
    sendWithDescriptor(handle.fd, Buffer.from(this.line("execute", "getfd", { fdname: name }, id)), fd);
    return promise;
  }

  /**
   * Calls `listener` at each event of that name; `timestampUs` is QEMU's wall clock. `closed` is ours: the
   * connection ended. Returns a function that ends it.
   */
  on(event: string, listener: EventListener): () => void {
    this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]);
    return () => {
      const rest = this.listeners.get(event)!.filter((other) => other !== listener);
      this.listeners.set(event, rest);
    };
  }

  /**
   * Who knows better than the socket why QEMU went away: asked when it did, before commands that were under
   * way fail.
   */
  explain(explanation: () => Promise<string | undefined>): void {
    this.explanation = explanation;
  }

  /** How QEMU ended, with its last words, if it ends now; `undefined` if it does not, or nobody knows. */
  whyGone(): Promise<string | undefined> {
    return this.explanation();
  }

  close(): void {
    this.explanation = async () => undefined;
    this.end("we closed it");
    this.socket.destroy();
  }

  private line(verb: string, command: string, args: Record<string, unknown>, id: number): string {
    return `${JSON.stringify({ [verb]: command, arguments: args, id })}\n`;
  }

  private request<T>(verb: string, command: string, args: Record<string, unknown>): Promise<T> {
    if (this.closedBecause !== undefined) return Promise.reject(new QmpClosed(this.closedBecause));
    const { id, promise } = this.expect<T>(command);
    this.socket.write(this.line(verb, command, args, id));
    return promise;
  }

  private expect<T>(command: string): { id: number; promise: Promise<T> } {
    const id = this.nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    this.pending.set(id, { command, resolve, reject });
    return { id, promise };
  }

  private read(text: string): void {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop()!;
    for (const line of lines) if (line.trim() !== "") this.handle(JSON.parse(line) as Message);
  }

  private handle(message: Message): void {
    if (message.QMP !== undefined) this.greeted(message);
    else if (message.event !== undefined) this.emit(message.event, message.data, message.timestamp);
    else if (message.id !== undefined) this.answer(message.id, message);
  }

  private answer(id: number, message: Message): void {
    const pending = this.pending.get(id);
    if (pending === undefined) return;
    this.pending.delete(id);
    if (message.error === undefined) pending.resolve(message.return as never);
    else pending.reject(new QmpError(pending.command, message.error.class, message.error.desc));
  }

  private emit(event: string, data: unknown, timestamp?: Message["timestamp"]): void {
    const us = timestamp === undefined ? 0 : timestamp.seconds * 1e6 + timestamp.microseconds;
    for (const listener of this.listeners.get(event) ?? []) listener(data, us);
  }

  private end(reason: string): void {
    if (this.closedBecause !== undefined) return;
    this.closedBecause = reason;
    const pending = [...this.pending.values()];
    this.pending.clear();
    this.emit("closed", undefined);
    void this.whyGone().then((how) => {
      if (how !== undefined) this.closedBecause = how;
      for (const { reject } of pending) reject(new QmpClosed(how ?? reason));
    });
  }
}

/** QEMU opens its monitor a moment after it starts: try again until it is there. */
async function connectWithin(path: string, deadline: number): Promise<Socket> {
  for (;;) {
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    const socket = createConnection(path);
    socket.once("connect", () => resolve(undefined));
    socket.once("error", resolve);
    const error = await promise;
    socket.removeAllListeners("error");
    if (error === undefined) return socket;
    if (Date.now() > deadline) throw new QmpClosed(`${path}: ${error.message}`);
    await new Promise((again) => setTimeout(again, 5));
  }
}
