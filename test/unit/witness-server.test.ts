import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, request } from "node:http";
import { createConnection } from "node:net";
import { join } from "node:path";
import { json } from "node:stream/consumers";
import { type TestContext, test } from "node:test";
import type { Claim } from "../../src/core/arbiter.ts";
import { ClaimFile } from "../../src/witness/claim-file.ts";
import { parseLines } from "../../src/witness/claim-lines.ts";
import { WitnessServer } from "../../src/witness/server.ts";
import { authority } from "./witness-certificates.ts";
import { losingProxy } from "./witness-losing-proxy.ts";
import { folder, refusal, WitnessProcess } from "./witness-server-process.ts";
import { MOSTLY, open, race, untimed, witnessSuite } from "./witness-suite.ts";

const deadline = () => AbortSignal.timeout(20_000);

function start(t: TestContext, ...more: string[]): Promise<WitnessProcess> {
  return WitnessProcess.start(t, join(folder(t), "claims"), "--create", ...more);
}

const urls = new WeakMap<TestContext, string>();
witnessSuite("server", async (t) => {
  const url = urls.get(t) ?? (await start(t)).url;
  urls.set(t, url);
  return { kind: "server", url };
});

test("I3: two hosts race for 100 generations at the server: each is exactly one's", async (t) => {
  const { url } = await start(t);
  const { witness: a } = open(t, { kind: "server", url });
  const { witness: b } = open(t, { kind: "server", url });
  const wins = await race([a, b], 100);
  t.diagnostic(`host-a was granted ${wins.a}, host-b ${wins.b}`);
});

test("I3: a server killed amid many claims, three times, forgets none that it granted", async (t) => {
  const file = join(folder(t), "claims");
  let server = await WitnessProcess.start(t, file, "--create");
  const { url, port } = server;
  const hosts = ["host-a", "host-b"] as const;
  const { witness: a, notices } = open(t, { kind: "server", url });
  const { witness: b } = open(t, { kind: "server", url });
  /** By VM and generation. */
  const owners = new Map<string, string>();
  let grants = 0;
  const bell: { at: number; ring: () => void }[] = [];
  const afterGrants = (more: number) =>
    new Promise<void>((ring) => {
      bell.push({ at: grants + more, ring });
    });
  const vms = Array.from({ length: 20 }, () => randomUUID());
  const generations = 12;
  const play = async (vm: string, host: (typeof hosts)[number]) => {
    for (let generation = 0; generation < generations; ) {
      const verdict = await (host === "host-a" ? a : b).ask(vm, generation, host, deadline());
      ({ generation } = verdict);
      if (!verdict.granted) continue;
      const key = `${vm} ${generation}`;
      assert.equal(owners.get(key), undefined, "I3: granted twice");
      owners.set(key, host);
      grants++;
      for (const { at, ring } of bell) if (at === grants) ring();
    }
  };
  const players = vms.flatMap((vm) => hosts.map((host) => play(vm, host)));
  for (let kill = 0; kill < 3; kill++) {
    await afterGrants(40);
    await server.end("SIGKILL");
    server = await WitnessProcess.start(t, file, "--listen", `127.0.0.1:${port}`);
  }
  await Promise.all(players);
  const { claims, wholeBytes } = parseLines(readFileSync(file), file);
  assert.equal(wholeBytes, readFileSync(file).length);
  assert.equal(claims.length, vms.length * generations, "each generation of each VM is somebody's");
  // Who is overtaken before it hears of its grant is told of the later generation instead.
  assert.ok(owners.size >= claims.length * MOSTLY, `${owners.size} of ${claims.length} were told`);
  const claimed = new Map(claims.map(({ vm, generation, host }) => [`${vm} ${generation}`, host]));
  for (const [key, host] of owners) assert.equal(claimed.get(key), host);
  assert.ok(notices.includes("unreachable") && notices.at(-1) === "reachable", notices.join(" "));
});

test("I3: a grant whose answer was lost is granted again to the same host, and denied to the other", async (t) => {
  const proxy = await losingProxy(t, (await start(t)).url);
  const { witness: a, notices } = open(t, { kind: "server", url: proxy.url });
  const { witness: b } = open(t, { kind: "server", url: proxy.url });
  const vm = randomUUID();
  proxy.lose(2);
  assert.deepEqual(await a.ask(vm, 1, "host-a", deadline()), { granted: true, generation: 2 });
  const lost = proxy.lost.map(({ newest }) => untimed(newest as Claim));
  assert.deepEqual(lost, Array(2).fill({ generation: 2, host: "host-a" }));
  assert.deepEqual(notices, ["unreachable", "reachable"], "once an outage, not once a try");
  assert.deepEqual(await b.ask(vm, 1, "host-b", deadline()), { granted: false, generation: 2 });

  // And one that was given up in between: what it had begun stands.
  proxy.lose(1000);
  await assert.rejects(a.ask(vm, 2, "host-a", AbortSignal.timeout(300)), { name: "TimeoutError" });
  assert.ok(proxy.lost.length > 2);
  proxy.lose(0);
  assert.deepEqual(await b.ask(vm, 2, "host-b", deadline()), { granted: false, generation: 3 });
  assert.deepEqual(await a.ask(vm, 2, "host-a", deadline()), { granted: true, generation: 3 });
});

test("the server answers bad requests with a sentence, and goes on", async (t) => {
  const { url } = await start(t);
  const vm = randomUUID();
  const good = { vm, generation: 1, host: "host-a" };
  const ask = async (path: string, body: string, method = "POST") => {
    const asked = request(new URL(path, url), { method, agent: false, signal: deadline() }).end(body);
    const [response] = await once(asked, "response");
    const { statusCode: status } = response as IncomingMessage;
    return { status, ...((await json(response)) as object) };
  };
  const refused: readonly [number, string, string, string?][] = [
    [404, "/v2/claim", "{}"],
    [404, "/constructor", "{}"],
    [405, "/v1/newest", "", "GET"],
    [400, "/v1/newest", ""],
    [400, "/v1/newest", "{"],
    [400, "/v1/newest", "null"],
    [400, "/v1/newest", '"text"'],
    [400, "/v1/newest", JSON.stringify({ vm: "../claims" })],
    [400, "/v1/claim", JSON.stringify({ ...good, generation: "1" })],
    [400, "/v1/claim", JSON.stringify({ ...good, generation: -1 })],
    [400, "/v1/claim", JSON.stringify({ ...good, generation: 2 ** 53 })],
    [400, "/v1/claim", JSON.stringify({ ...good, generation: 1.5 })],
    [400, "/v1/claim", JSON.stringify({ ...good, host: "" })],
    [400, "/v1/claim", JSON.stringify({ ...good, host: "a\nb" })],
    [400, "/v1/claim", JSON.stringify({ ...good, host: "a".repeat(254) })],
    [400, "/v1/claim", JSON.stringify({ ...good, vm: vm.toUpperCase() })],
    [413, "/v1/claim", " ".repeat(5000)],
  ];
  for (const [status, path, body, method] of refused) {
    const answer = await ask(path, body, method);
    assert.equal(answer.status, status, `${path} ${body.slice(0, 100)}`);
    assert.match((answer as { error?: string }).error ?? "", /\w \w/);
  }
  // One that never says what it wants, one that speaks no HTTP, and one that leaves in the middle of its
  // request.
  const port = Number(new URL(url).port);
  const mute = createConnection(port, "127.0.0.1");
  const rude = createConnection(port, "127.0.0.1").resume();
  rude.write("\x16\x03\x01 hello\r\n\r\n");
  await once(rude, "close", { signal: deadline() });
  const hasty = createConnection(port, "127.0.0.1");
  hasty.write("POST /v1/claim HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{");
  await once(hasty, "ready", { signal: deadline() });
  hasty.destroy();
  assert.deepEqual(await ask("/v1/newest", JSON.stringify({ vm })), { status: 200, newest: null });
  assert.deepEqual(await ask("/v1/claim", JSON.stringify(good)), {
    status: 200,
    newest: { generation: 1, host: "host-a" },
  });
  mute.destroy();
});

test("the server takes claims only with its token, and over TLS only from who trusts it", async (t) => {
  const path = folder(t);
  const { caFile, issue } = authority(path);
  const { certFile, keyFile } = issue("witness");
  const [tokenFile, wrongFile] = [join(path, "token"), join(path, "wrong")];
  writeFileSync(tokenFile, "correct horse\n");
  writeFileSync(wrongFile, "battery staple\n");
  const server = await start(t, "--token-file", tokenFile, "--cert", certFile, "--key", keyFile);
  assert.match(server.url, /^https:/);
  assert.equal(server.warnings, "");
  const kind = "server";
  const { url } = server;
  const vm = randomUUID();
  for (const [choice, why] of [
    [{ kind, url, caFile }, /status 401: the token is missing or wrong/],
    [{ kind, url, caFile, tokenFile: wrongFile }, /status 401: the token is missing or wrong/],
    [{ kind, url, tokenFile }, /unable to verify|self-signed/],
    [{ kind, url: url.replace("https", "http"), tokenFile }, /socket hang up|ECONNRESET/],
    [{ kind, url, caFile: join(path, "missing"), tokenFile }, /ENOENT.*missing/],
  ] as const) {
    const { witness, next } = open(t, choice);
    const unreachable = next("unreachable");
    const given = new AbortController();
    const asked = witness.ask(vm, 1, "host-a", given.signal);
    assert.match(await unreachable, why);
    given.abort(new Error("seen enough"));
    await assert.rejects(asked, /seen enough/);
  }
  const { witness } = open(t, { kind, url, caFile, tokenFile: wrongFile });
  assert.equal(await open(t, { kind, url, caFile, tokenFile }).witness.latest(vm, deadline()), undefined);
  const asked = witness.ask(vm, 1, "host-a", deadline());
  writeFileSync(wrongFile, "correct horse");
  assert.deepEqual(await asked, { granted: true, generation: 2 }, "a mended file is read again");
});

test("a host gets in however many connections others open and say nothing on", async (t) => {
  const claims = await ClaimFile.open(join(folder(t), "claims"), { create: true });
  const onFailure = (error: Error) => t.diagnostic(error.message);
  const server = await WitnessServer.start({
    claims,
    host: "127.0.0.1",
    port: 0,
    mostConnections: 4,
    onFailure,
  });
  const idle = Array.from({ length: 4 }, () =>
    createConnection(Number(new URL(server.url).port), "127.0.0.1").on("error", () => {}),
  );
  t.after(async () => {
    for (const socket of idle) socket.destroy();
    await server.close();
    await claims.close();
  });
  for (const socket of idle) if (socket.connecting) await once(socket, "connect", { signal: deadline() });
  const { witness } = open(t, { kind: "server", url: server.url });
  // Sooner than those who say nothing are sent away for that.
  const verdict = await witness.ask(randomUUID(), 0, "host-a", AbortSignal.timeout(8_000));
  assert.deepEqual(verdict, { granted: true, generation: 1 });
});

test("something else that answers at the witness's address is no witness", async (t) => {
  const answers = ["", "<html>", "[]", "{}", '{"newest":{"generation":2}}', `"${"x".repeat(70_000)}"`];
  let now = "";
  const server = createServer((_, response) => response.end(now));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const url = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
  for (const choice of [
    { kind: "server", url },
    { kind: "etcd", endpoints: [url] },
  ] as const)
    for (const answer of answers) {
      now = answer;
      const { witness, next } = open(t, choice);
      const unreachable = next("unreachable");
      const given = new AbortController();
      const asked = [
        witness.ask(randomUUID(), 1, "host-a", given.signal),
        witness.latest(randomUUID(), given.signal),
      ];
      assert.match(
        await unreachable,
        /is it the right port\?|something that is not a claim|etcd's answer has status 200/,
      );
      given.abort(new Error("seen enough"));
      for (const one of asked) await assert.rejects(one, /seen enough/);
    }
});

test("what keeps a witness from starting is said in a sentence", async (t) => {
  const file = join(folder(t), "claims");
  const listen = ["--listen", "127.0.0.1:0"];
  assert.match((await refusal(...listen)).text, /--file is missing\nusage:/);
  const wrong = await refusal("--listen", "7331", "--file", file);
  assert.equal(wrong.status, 64);
  assert.match(wrong.text, /--listen must be ADDRESS:PORT/);
  const missing = await refusal(...listen, "--file", file);
  assert.equal(missing.status, 2);
  assert.match(missing.text, /claims is not there. If this is a new witness, start it once with --create/);
  const first = await WitnessProcess.start(t, file, "--create");
  assert.match(first.warnings, /no --token-file: whoever can reach this witness/);
  assert.match((await refusal(...listen, "--file", file)).text, /is in use by another witness/);
  assert.match(
    (await refusal("--listen", `127.0.0.1:${first.port}`, "--file", `${file}2`, "--create")).text,
    /EADDRINUSE/,
  );
  assert.equal(await first.end("SIGTERM"), 0);
});
