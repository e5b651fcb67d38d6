// The fault proxy is a tool of other tests: what they conclude rests on what is proven here.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { command, FaultProxy } from "../../src/lab/fault-proxy.ts";
import { DEADLINE } from "./link-samples.ts";

/** Bytes that a socket has received, and the wait for more of them. */
class Inbox {
  readonly socket: Socket;
  readonly ended: Promise<string>;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #wake = (): void => {};

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#bytes += chunk.length;
      this.#wake();
    });
    this.ended = new Promise((resolve) => {
      socket.once("end", () => resolve("end"));
      socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? ""));
    });
  }

  get bytes(): number {
    return this.#bytes;
  }

  async first(count: number): Promise<Buffer> {
    while (this.#bytes < count) await new Promise<void>((resolve) => (this.#wake = resolve));
    return Buffer.concat(this.#chunks);
  }
}

interface Setup {
  readonly proxy: FaultProxy;
  readonly client: Inbox;
  readonly target: Inbox;
}

async function setup(t: TestContext): Promise<Setup> {
  const server = createServer({ allowHalfOpen: true });
  const all = new Set<Socket>();
  server.on("connection", (socket) => {
    all.add(socket);
    socket.on("error", () => {});
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address() as { port: number };
  const proxy = await FaultProxy.start({ to: { address: "127.0.0.1", port } });
  const accepted = once(server, "connection");
  const client = connect({ port: proxy.port, host: "127.0.0.1", noDelay: true, allowHalfOpen: true });
  const [target] = (await accepted) as [Socket];
  t.after(() => {
    proxy.close();
    server.close();
    client.destroy();
    for (const socket of all) socket.destroy();
  });
  return { proxy, client: new Inbox(client), target: new Inbox(target) };
}

function numbered(bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  for (let i = 0; i + 4 <= bytes; i += 4) buffer.writeUInt32BE(i, i);
  return buffer;
}

test("without faults every byte passes, both ways, and the end of a stream too", DEADLINE, async (t) => {
  const { proxy, client, target } = await setup(t);
  const data = numbered(3 << 20);
  client.socket.end(data);
  assert.ok((await target.first(data.length)).equals(data));
  assert.equal(await target.ended, "end");
  target.socket.end("the answer");
  assert.equal((await client.first(10)).toString(), "the answer");
  assert.equal(await client.ended, "end");
  assert.deepEqual(proxy.delivered, { up: data.length, down: 10 });
  assert.equal(proxy.accepted, 1);
});

test(
  "a delay holds each byte at least so long, in its direction only, and keeps the order",
  DEADLINE,
  async (t) => {
    const { proxy, client, target } = await setup(t);
    proxy.set({ delayMs: 80 }, "down");
    const start = performance.now();
    target.socket.write("late");
    await client.first(4);
    assert.ok(performance.now() - start >= 80, `${performance.now() - start} ms`);

    // Many small writes, and the delay taken away in between: still in order.
    const data = numbered(4000);
    for (let i = 0; i < data.length; i += 4) {
      if (i === 2000) proxy.set({ delayMs: 0 });
      target.socket.write(data.subarray(i, i + 4));
    }
    assert.ok((await client.first(4 + data.length)).subarray(4).equals(data));
  },
);

test("the end of a stream is delayed like its bytes, and comes behind them", DEADLINE, async (t) => {
  const { proxy, client, target } = await setup(t);
  proxy.set({ delayMs: 60 });
  const start = performance.now();
  client.socket.end("last words");
  assert.equal(await target.ended, "end");
  assert.ok(performance.now() - start >= 60);
  assert.equal(target.bytes, 10);
});

test("a rate limit lets no more through than it says", DEADLINE, async (t) => {
  const { proxy, client, target } = await setup(t);
  proxy.set({ bytesPerSecond: 200_000 }, "up");
  const data = numbered(40_000);
  const start = performance.now();
  client.socket.write(data);
  assert.ok((await target.first(data.length)).equals(data));
  // The last piece of 1000 bytes goes when the others have been paid for.
  assert.ok(performance.now() - start >= 195 - 1, `${performance.now() - start} ms`);
});

test(
  "a pause holds everything, closes nothing, and the sender feels it; resume lets all of it go",
  DEADLINE,
  async (t) => {
    const { proxy, client, target } = await setup(t);
    client.socket.write("before");
    await target.first(6);
    proxy.pause("up");
    const data = numbered(32 << 20);
    let taken = false;
    client.socket.write(data, () => {
      taken = true;
    });
    // The other direction still moves: twenty round trips of it are time enough for a byte to slip through.
    for (let i = 1; i <= 20; i++) {
      target.socket.write("x");
      await client.first(i);
    }
    assert.equal(target.bytes, 6);
    assert.equal(taken, false, "32 MiB went into a paused proxy");
    assert.equal(client.socket.closed, false);
    proxy.resume("up");
    assert.ok((await target.first(6 + data.length)).subarray(6).equals(data));
  },
);

test("a cut resets both sides", DEADLINE, async (t) => {
  const { proxy, client, target } = await setup(t);
  client.socket.write("x");
  await target.first(1);
  proxy.cut();
  assert.deepEqual(await Promise.all([client.ended, target.ended]), ["ECONNRESET", "ECONNRESET"]);
});

test("half-open: one side is reset, the other stays connected to nobody", DEADLINE, async (t) => {
  const { proxy, client, target } = await setup(t);
  client.socket.write("x");
  await target.first(1);
  proxy.halfOpen("client");
  assert.equal(await target.ended, "ECONNRESET");
  await new Promise<void>((resolve) => client.socket.write(numbered(8 << 20), () => resolve()));
  assert.equal(client.socket.closed, false);
  assert.equal(client.bytes, 0);
  assert.deepEqual(proxy.delivered, { up: 1, down: 0 });
});

test("a reset by one side reaches the other", DEADLINE, async (t) => {
  const { client, target } = await setup(t);
  client.socket.write("x");
  await target.first(1);
  client.socket.resetAndDestroy();
  assert.equal(await target.ended, "ECONNRESET");
});

test("a target that is not there shows as a reset", DEADLINE, async (t) => {
  const { proxy: free } = await setup(t);
  const { port } = free;
  free.close();
  const proxy = await FaultProxy.start({ to: { address: "127.0.0.1", port } });
  t.after(() => proxy.close());
  const client = new Inbox(connect(proxy.port, "127.0.0.1"));
  assert.equal(await client.ended, "ECONNRESET");
});

test(
  "as a program it prints its port and takes commands; its end comes with its input's",
  DEADLINE,
  async (t) => {
    const { target, proxy } = await setup(t);
    const to = `127.0.0.1:${proxy.port}`;
    const child = spawn(process.execPath, [
      "src/lab/fault-proxy.ts",
      "--listen",
      "127.0.0.1:0",
      "--to",
      to,
      "--delay",
      "40",
    ]);
    t.after(() => child.kill("SIGKILL"));
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const port = /^listening on port (\d+)$/.exec((await lines.next()).value ?? "")?.[1];
    const start = performance.now();
    const client = new Inbox(connect(Number(port), "127.0.0.1"));
    t.after(() => client.socket.destroy());
    // The setup's own client is connected already: what counts here arrives at the proxy behind.
    client.socket.write("hello");
    while (proxy.delivered.up < 5) await new Promise((resolve) => setImmediate(resolve));
    assert.ok(performance.now() - start >= 40);
    assert.equal(target.bytes, 0);
    for (const [line, answer] of [
      ["delay 0 up", "ok"],
      ["counts", '{"up":5,"down":0}'],
      ["half-open both", 'error: "half-open both" is no command; see the top of fault-proxy.ts'],
      ["cut", "ok"],
    ]) {
      child.stdin.write(`${line}\n`);
      assert.equal((await lines.next()).value, answer);
    }
    assert.equal(await client.ended, "ECONNRESET");
    child.stdin.end();
    assert.deepEqual(await once(child, "exit"), [0, null]);
  },
);

test("commands that are none, or lack their number, are refused", async (t) => {
  const { proxy } = await setup(t);
  for (const line of ["", "stop", "delay", "delay -1", "rate 0", "half-open"]) {
    assert.throws(() => command(proxy, line), /is no command/, line);
  }
  for (const line of ["rate 1000", "pause down", "resume"]) assert.equal(command(proxy, line), "ok");
});
