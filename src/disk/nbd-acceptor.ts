/**
 * A socket to an NBD client, with the server's session over it: bytes in and out, and what has to wait,
 * waits.
 */
import type { Socket } from "node:net";
import { type NbdServerOptions, NbdServerSession } from "../codec/nbd-server.ts";

/** How often a request that had to wait is tried again. */
const RETRY_MS = 1;

export interface NbdAcceptorOptions extends Omit<NbdServerOptions, "send" | "onEnd"> {
  /** Before a request that must wait is waited for. */
  readonly onStall?: () => void;
  /** The client is gone, or was sent away. Once. */
  readonly onEnd: (message: string) => void;
}

export class NbdAcceptor {
  readonly session: NbdServerSession;
  private readonly socket: Socket;
  private readonly onStall: () => void;
  private readonly onEnd: (message: string) => void;
  /** What was read and not taken yet. */
  private rest: Buffer = Buffer.alloc(0);
  private retry: NodeJS.Timeout | undefined;
  private over = false;

  /** @param socket connected; it is ours from now on */
  constructor(socket: Socket, { onEnd, onStall = () => {}, ...options }: NbdAcceptorOptions) {
    this.socket = socket;
    this.onStall = onStall;
    this.onEnd = onEnd;
    this.session = new NbdServerSession({
      ...options,
      send: (bytes) => socket.write(bytes),
      onEnd: ({ message }) => {
        this.ended(message);
        socket.end();
      },
    });
    socket.on("data", (chunk: Buffer) => this.read(chunk));
    socket.on("error", (error) => this.ended(error.message));
    socket.on("close", () => this.ended("the client closed the connection"));
    this.session.start();
  }

  /** Closes at once. `onEnd` is not called any more. */
  close(): void {
    this.over = true;
    clearTimeout(this.retry);
    this.session.stop();
    this.socket.destroy();
  }

  private read(chunk: Buffer): void {
    this.rest = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    this.go();
  }

  private go(): void {
    if (this.over) return;
    this.rest = this.rest.subarray(this.session.push(this.rest));
    if (!this.session.stalled) {
      this.socket.resume();
      return;
    }
    this.onStall();
    this.socket.pause();
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.go(), RETRY_MS);
  }

  private ended(message: string): void {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.retry);
    this.session.stop();
    this.onEnd(message);
  }
}
