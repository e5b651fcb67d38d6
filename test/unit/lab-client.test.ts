// The client is the judge of every failover (I4: nothing that a client saw is taken back). So here the judge
// is judged: each thing that it counts is done to it by a server that misbehaves.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import type { ClientProgress, ClientSummary } from "../../src/lab/client-report.ts";
import { redisServerFile } from "../../src/lab/guest-image.ts";
import { monotonicNs } from "../../src/os/monotonic.ts";

const deadline = { timeout: 20_000 };
const program = `${import.meta.dirname}/../../src/lab/client.ts`;

/** What the server does with one request: an answer, or a deed. */
type Deed = number | "reset" | "close" | "garbage" | { readonly afterMs: number; readonly value: number };

/**
 * A server that does one deed per request, and after them counts on in good order, or falls silent. `spent`
 * resolves at the first request after the last deed.
 */
async function misbehavingRedis(
  t: TestContext,
  deeds: readonly Deed[],
  after: "counts on" | "silent" = "counts on",
) {
  const left = [...deeds];
  let value = 0;
  const spent = Promise.withResolvers<void>();
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("data", (bytes) => {
      assert.equal(bytes.toString(), "*2\r\n$4\r\nINCR\r\n$7\r\ncounter\r\n");
      const deed = left.shift();
      if (typeof deed === "number") value = deed;
      if (typeof deed === "object") value = deed.value;
      if (deed === undefined) {
        if (after === "counts on") socket.write(`:${++value}\r\n`);
        spent.resolve();
      } else if (deed === "reset") socket.resetAndDestroy();
      else if (deed === "close") socket.end();
      else if (deed === "garbage") socket.write("-ERR no such thing\r\n");
      else if (typeof deed === "number") socket.write(`:${value}\r\n`);
      else setTimeout(() => socket.write(`:${value}\r\n`), deed.afterMs);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, spent: spent.promise };
}

function startClient(t: TestContext, words: readonly string[]) {
  const child: ChildProcess = spawn(process.execPath, [program, ...words], {
    stdio: ["pipe", "pipe", "pipe"],
  });
  t.after(() => child.kill("SIGKILL"));
  const lines: (ClientProgress | ClientSummary)[] = [];
  const reader = createInterface({ input: child.stdout! });
  let complaint = "";
  child.stderr!.on("data", (text) => {
    complaint += text;
  });
  const ended = (async () => {
    for await (const line of reader) lines.push(JSON.parse(line));
    const status = child.exitCode ?? (await once(child, "exit"))[0];
    const summary = lines.at(-1);
    assert.equal(summary?.kind, "summary", `no summary at the end: ${complaint}`);
    assert.equal(lines.filter((line) => line.kind === "summary").length, 1);
    return { summary: summary as ClientSummary, progress: lines.slice(0, -1), status, complaint };
  })();
  return { child, ended };
}

/** Runs the client through all deeds, then ends it in order. */
async function clientThrough(
  t: TestContext,
  deeds: readonly Deed[],
  after?: "silent",
): Promise<ClientSummary> {
  const server = await misbehavingRedis(t, deeds, after);
  const client = startClient(t, ["--host", "127.0.0.1", "--port", `${server.port}`, "--until-stdin-closes"]);
  await server.spent;
  client.child.stdin!.end();
  return (await client.ended).summary;
}

test("an older state: wentBack and lost are counted", deadline, async (t) => {
  const summary = await clientThrough(t, [1, 2, 3, 2, 3]);
  assert.partialDeepStrictEqual(summary, { wentBack: 1, lost: 2, repeated: 0, connections: 1, resets: 0 });
  assert.ok(summary.acked >= 6, "it went on after the fault");
  assert.equal(summary.highest, summary.acked - 2, "the last answer: two came again");
  assert.equal(summary.requests, summary.acked);
});

test("an increment applied twice: repeated is counted", deadline, async (t) => {
  assert.partialDeepStrictEqual(await clientThrough(t, [1, 3, 4]), { wentBack: 0, lost: 0, repeated: 1 });
});

for (const deed of ["reset", "close"] as const) {
  test(`a connection that ends by ${deed} is counted, and the client connects again`, deadline, async (t) => {
    const summary = await clientThrough(t, [1, 2, deed, 4, 5]);
    assert.partialDeepStrictEqual(summary, { connections: 2, resets: 1 });
    assert.equal(summary.requests, summary.acked + 1);
    // The request cut off may have been applied, so 4 after 2 is no fault.
    assert.partialDeepStrictEqual(summary, { wentBack: 0, lost: 0, repeated: 0 });
  });
}

test("a silence is the longest gap, and the summary says from when to when", deadline, async (t) => {
  const before = monotonicNs();
  const summary = await clientThrough(t, [1, 2, { afterMs: 400, value: 3 }]);
  const began = BigInt(summary.gaps[0]!.beganNs);
  const ended = BigInt(summary.gaps[0]!.endedNs);
  assert.ok(before < began && began < ended && ended < monotonicNs());
  assert.ok(summary.longestGapMs >= 399, `${summary.longestGapMs} ms`);
  assert.ok(summary.latencyMs.max >= 399 && summary.latencyMs.p50 < summary.latencyMs.max);
});

test("a server that falls silent for good: the gap up to the end counts", deadline, async (t) => {
  // The client itself waits a second for the last answer.
  const summary = await clientThrough(t, [1], "silent");
  assert.partialDeepStrictEqual(summary, { requests: 2, acked: 1 });
  assert.ok(summary.longestGapMs >= 999, `${summary.longestGapMs} ms`);
});

test("an answer that is no number ends the client with its sentence and its summary", deadline, async (t) => {
  const server = await misbehavingRedis(t, [1, "garbage"]);
  const client = startClient(t, ["--host", "127.0.0.1", "--port", `${server.port}`, "--until-stdin-closes"]);
  const { summary, status, complaint } = await client.ended;
  assert.equal(status, 1);
  assert.match(complaint, /no number to INCR counter, but "-ERR no such thing"/);
  assert.equal(summary.acked, 1);
});

test("nobody listens: no connection, no answer, and still a summary", deadline, async (t) => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  const client = startClient(t, ["--host", "127.0.0.1", "--port", `${port}`, "--seconds", "0.3"]);
  const { summary, progress } = await client.ended;
  assert.partialDeepStrictEqual(summary, { connections: 0, resets: 0, requests: 0, acked: 0 });
  assert.partialDeepStrictEqual(progress[0]!, { kind: "progress", connected: false, acked: 0 });
});

for (const host of ["127.0.0.1", "::1"]) {
  test(`a real redis-server over ${host}: clean, and ends in order on SIGTERM`, deadline, async (t) => {
    const free = createServer().listen(0, host);
    await once(free, "listening");
    const { port } = free.address() as AddressInfo;
    free.close();
    await once(free, "close");
    const words = ["--port", `${port}`, "--bind", host, "--save", "", "--appendonly", "no"];
    const redis = spawn(redisServerFile, words, {
      argv0: "redis-server",
      stdio: ["ignore", "pipe", "inherit"],
    });
    t.after(() => redis.kill("SIGKILL"));
    for await (const line of createInterface({ input: redis.stdout })) {
      if (line.includes("Ready to accept connections")) break;
    }
    const client = startClient(t, ["--host", host, "--port", `${port}`, "--until-stdin-closes"]);
    for await (const line of createInterface({ input: client.child.stdout! })) {
      if (JSON.parse(line).acked > 100) break;
    }
    client.child.kill("SIGTERM");
    const { summary, status } = await client.ended;
    assert.equal(status, 0);
    assert.partialDeepStrictEqual(summary, { connections: 1, resets: 0, lost: 0, wentBack: 0, repeated: 0 });
    assert.ok(summary.acked > 100);
    assert.equal(summary.requests, summary.acked, "the answer on its way was waited for");
    const { p50, p95, p99, max } = summary.latencyMs;
    assert.ok(0 < p50 && p50 <= p95 && p95 <= p99 && p99 <= max);
  });
}
