/** An NBD server of ours whose disk is memory, on a unix socket or in one process with its client. */
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { NbdExtent } from "../../src/codec/nbd.ts";
import {
  type NbdEnd,
  type NbdExport,
  type NbdRequest,
  NbdServerSession,
} from "../../src/codec/nbd-server.ts";

export const BLOCK = 512;

export function exportOf(bytes: number, more: Partial<NbdExport> = {}): NbdExport {
  return {
    name: "disk0",
    bytes,
    readOnly: false,
    minimumBlock: BLOCK,
    preferredBlock: 4096,
    maximumBlock: 32 << 20,
    ...more,
  };
}

/** A disk in memory, and what was asked of it. */
export class MemoryDisk {
  readonly export: NbdExport;
  readonly content: Buffer;
  readonly requests: NbdRequest[] = [];
  readonly ends: NbdEnd[] = [];
  /** How many bytes of a piece it takes; whether it takes a request. */
  appetite: (offered: number) => number = (offered) => offered;
  willing: () => boolean = () => true;
  /** Answers a request; by default at once. */
  onTaken: (request: NbdRequest, session: NbdServerSession) => void = (request, session) =>
    this.answer(request, session);

  constructor(one: NbdExport, contentBytes = one.bytes) {
    this.export = one;
    this.content = Buffer.alloc(contentBytes);
  }

  session(send: (bytes: Uint8Array) => void, ended: (end: NbdEnd) => void = () => {}): NbdServerSession {
    const session: NbdServerSession = new NbdServerSession({
      exports: [this.export],
      send,
      onRequest: (request) => {
        if (!this.willing()) return false;
        this.requests.push(request);
        this.onTaken(request, session);
        return true;
      },
      onWriteData: ({ offset }, piece, at) => {
        const taken = this.appetite(piece.length);
        this.content.set(piece.subarray(0, taken), offset + at);
        return taken;
      },
      onEnd: (end) => {
        this.ends.push(end);
        ended(end);
      },
    });
    return session;
  }

  answer(request: NbdRequest, session: NbdServerSession): void {
    const { kind, offset, length } = request;
    const range = this.content.subarray(offset, offset + length);
    if (kind === "read") session.answerRead(request, Buffer.from(range));
    else if (kind === "block-status") session.answerBlockStatus(request, this.extents(request));
    else {
      if (kind === "zero" || kind === "trim") range.fill(0);
      session.answer(request);
    }
  }

  /** By blocks of 512: a hole that reads as zero, or data. */
  private extents({ offset, length, oneExtent }: NbdRequest): NbdExtent[] {
    const extents: { length: number; flags: number }[] = [];
    for (let at = offset; at < offset + length; at += BLOCK) {
      const block = this.content.subarray(at, Math.min(at + BLOCK, offset + length));
      const flags = block.every((byte) => byte === 0) ? 3 : 0;
      const last = extents.at(-1);
      if (last?.flags === flags) last.length += block.length;
      else extents.push({ length: block.length, flags });
    }
    return oneExtent ? extents.slice(0, 1) : extents;
  }
}

/**
 * Puts a session on a socket, as its owner would: what is not taken waits with the socket paused. Returns
 * what tries again.
 */
export function attach(disk: MemoryDisk, socket: Socket): () => void {
  let rest: Buffer = Buffer.alloc(0);
  const session = disk.session(
    (bytes) => socket.write(bytes),
    () => socket.end(),
  );
  const go = () => {
    rest = rest.subarray(session.push(rest));
    if (session.stalled) socket.pause();
    else socket.resume();
  };
  socket.on("data", (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk]);
    go();
  });
  socket.on("error", () => {});
  socket.on("close", () => session.stop());
  session.start();
  return go;
}

/**
 * Serves on a unix socket until the test is over; `onSocket` is called for every client. Returns the path.
 */
export async function listen(t: TestContext, onSocket: (socket: Socket) => void): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "remus-nbd-"));
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    onSocket(socket);
  });
  t.after(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
    await rm(dir, { recursive: true, force: true });
  });
  const path = join(dir, "nbd.sock");
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return path;
}

/** What a client must say to enter `name`. */
export function entering(name: string): Buffer {
  const header = Buffer.alloc(4 + 16);
  header.writeUInt32BE(3, 0);
  header.write("IHAVEOPT", 4);
  header.writeUInt32BE(1, 12);
  header.writeUInt32BE(Buffer.byteLength(name), 16);
  return Buffer.concat([header, Buffer.from(name)]);
}
