import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createConnection, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { ControlClient, type OrderFailed } from "../../src/guardian/control/client.ts";
import type { GuardianEvent, HeardEvent } from "../../src/guardian/control/events.ts";
import { OrderRefused } from "../../src/guardian/control/refusal.ts";
import { ControlSocket, type Order } from "../../src/guardian/control/socket.ts";

const DEADLINE_MS = 10_000;
const deadline = () => AbortSignal.timeout(DEADLINE_MS);

async function open(t: TestContext, orders: Record<string, Order>) {
  const directory = mkdtempSync(join(tmpdir(), "remus-control-"));
  const path = join(directory, "control.sock");
  const control = new ControlSocket(path);
  await control.take(orders);
  t.after(() => {
    control.close();
    rmSync(directory, { recursive: true });
  });
  return { control, path };
}

function phaseEvent(phase: Extract<GuardianEvent, { kind: "phase" }>["phase"]): GuardianEvent {
  return { kind: "phase", role: "primary", phase, generation: 1 };
}

/** A connection on which lines are written and read as they are. */
async function raw(t: TestContext, path: string) {
  const socket: Socket = createConnection(path);
  socket.setEncoding("utf8");
  let text = "";
  socket.on("data", (more: string) => {
    text += more;
  });
  socket.on("error", () => {});
  t.after(() => socket.destroy());
  await once(socket, "connect", { signal: deadline() });
  return {
    socket,
    async answers(count: number): Promise<unknown[]> {
      while (text.split("\n").length <= count) await once(socket, "data", { signal: deadline() });
      return text
        .split("\n")
        .slice(0, count)
        .map((line) => JSON.parse(line) as unknown);
    },
  };
}

test("an order is carried out with its arguments, and its result comes back with its id", async (t) => {
  const { path } = await open(t, {
    add: ({ a, b }) => ({ sum: (a as number) + (b as number) }),
    nothing: () => undefined,
  });
  const { socket, answers } = await raw(t, path);
  socket.write('{"id":7,"command":"add","arguments":{"a":1,"b":2}}\n{"id":"x","command":"nothing"}\n');
  socket.write('{"command":"nothing"}\n');
  assert.deepEqual(await answers(3), [
    { id: 7, result: { sum: 3 } },
    { id: "x", result: {} },
    { result: {} },
  ]);
});

test("a request that comes in pieces is one request", async (t) => {
  const { path } = await open(t, { echo: ({ word }) => ({ word }) });
  const { socket, answers } = await raw(t, path);
  const line = '{"id":1,"command":"echo","arguments":{"word":"Grüße"}}\n';
  for (const byte of Buffer.from(line)) {
    socket.write(Buffer.of(byte));
    await new Promise(setImmediate);
  }
  assert.deepEqual(await answers(1), [{ id: 1, result: { word: "Grüße" } }]);
});

test("requests are answered when they are done, not in the order in which they came", async (t) => {
  const slow = Promise.withResolvers<void>();
  const { path } = await open(t, { slow: () => slow.promise, quick: () => void setImmediate(slow.resolve) });
  const client = await ControlClient.connect(path);
  t.after(() => client.close());
  const done: string[] = [];
  await Promise.all([
    client.ask("slow").then(() => done.push("slow")),
    client.ask("quick").then(() => done.push("quick")),
  ]);
  assert.deepEqual(done, ["quick", "slow"]);
});

test("a bad request is refused with a code, and the connection goes on", async (t) => {
  const { path } = await open(t, { status: () => ({ fine: true }) });
  const { socket, answers } = await raw(t, path);
  const bad = [
    ["{", "bad-request", /not JSON/],
    ["null", "bad-request", /"command" is missing/],
    ['{"id":1}', "bad-request", /"command" is missing/],
    ['{"id":2,"command":5}', "bad-request", /"command" is missing or no text/],
    ['{"command":"status","arguments":5}', "bad-request", /"arguments" must be an object/],
    ['{"command":"status","arguments":null}', "bad-request", /"arguments" must be an object/],
    [JSON.stringify({ command: "status", arguments: { long: "x".repeat(70_000) } }), "too-long", /65536/],
  ] as const;
  for (const [line] of bad) socket.write(`${line}\n`);
  socket.write('{"id":9,"command":"status"}\n');
  const all = (await answers(bad.length + 1)) as { error: { code: string; message: string } }[];
  for (const [index, [line, code, message]] of bad.entries()) {
    assert.equal(all[index]!.error.code, code, line.slice(0, 40));
    assert.match(all[index]!.error.message, message);
  }
  assert.deepEqual(all.at(-1), { id: 9, result: { fine: true } });
});

test("I6: a line that does not end is refused before it fills memory, and its caller is sent away", async (t) => {
  const carriedOut: string[] = [];
  const { path } = await open(t, { status: () => void carriedOut.push("status") });
  const { socket, answers } = await raw(t, path);
  const closed = once(socket, "close", { signal: deadline() });
  // No newline: who waits for one keeps all that comes.
  socket.write("x".repeat(70_000));
  const [answer] = (await answers(1)) as { error: { code: string } }[];
  assert.equal(answer!.error.code, "too-long");
  await closed;
  const client = await ControlClient.connect(path);
  t.after(() => client.close());
  await client.ask("status");
  assert.deepEqual(carriedOut, ["status"]);
});

test("an order that does not exist is refused with those that do; what every object has is no order", async (t) => {
  const { path } = await open(t, { status: () => ({}), stop: () => {} });
  const client = await ControlClient.connect(path);
  t.after(() => client.close());
  for (const name of ["dance", "toString", "constructor", "__proto__"])
    await assert.rejects(client.ask(name), (error: OrderFailed) => {
      assert.equal(error.code, "unknown-command");
      assert.match(error.message, /there are: watch, status, stop$/);
      return true;
    });
});

test("refusals keep their code, other errors are `failed`, and both keep their message", async (t) => {
  const { path } = await open(t, {
    refuse: () => {
      throw new OrderRefused("wrong-state", "the VM is syncing");
    },
    fail: () => Promise.reject(new Error("QEMU did not answer")),
  });
  const client = await ControlClient.connect(path);
  t.after(() => client.close());
  await assert.rejects(client.ask("refuse"), {
    name: "OrderFailed",
    code: "wrong-state",
    message: "refuse: the VM is syncing",
  });
  await assert.rejects(client.ask("fail"), { code: "failed", message: "fail: QEMU did not answer" });
});

test("events go to those who watch, in order, and to nobody else", async (t) => {
  const { control, path } = await open(t, { status: () => ({}) });
  const seen: HeardEvent[] = [];
  const third = Promise.withResolvers<void>();
  const watcher = await ControlClient.connect(path, (event) => {
    seen.push(event);
    if (seen.length === 3) third.resolve();
  });
  const other = await ControlClient.connect(path, () => assert.fail("did not ask for events"));
  t.after(() => {
    watcher.close();
    other.close();
  });
  control.publish(phaseEvent("waiting"));
  await watcher.watch();
  for (const phase of ["connecting", "syncing", "protected"] as const) control.publish(phaseEvent(phase));
  await third.promise;
  await other.ask("status");
  assert.deepEqual(
    seen.map(({ phase }) => phase),
    ["connecting", "syncing", "protected"],
  );
});

test("I6: a watcher that does not read is dropped, the others go on", async (t) => {
  const { control, path } = await open(t, {});
  const { socket, answers } = await raw(t, path);
  socket.write('{"command":"watch"}\n');
  await answers(1);
  socket.pause();
  let last = 0;
  const reader = await ControlClient.connect(path, (event) => {
    last = Number(event.text?.split(" ")[0]);
  });
  t.after(() => reader.close());
  await reader.watch();
  const filler = "x".repeat(60_000);
  for (let n = 1; n <= 100; n++) {
    control.publish({ kind: "report", level: "info", text: `${n} ${filler}` });
    await reader.watch().catch(() => {});
  }
  assert.equal(last, 100);
  socket.resume();
  if (!socket.closed) await once(socket, "close", { signal: deadline() });
});

test("I5: what an order has asked to be undone is undone when its caller leaves, and not when another does", async (t) => {
  const undone: string[] = [];
  const second = Promise.withResolvers<void>();
  const { path } = await open(t, {
    hold: ({ name }, caller) => {
      caller.onLeft(() => {
        undone.push(name as string);
        if (undone.length === 2) second.resolve();
      });
    },
  });
  const [stays, leaves] = [await ControlClient.connect(path), await ControlClient.connect(path)];
  t.after(() => stays.close());
  await stays.ask("hold", { name: "stays" });
  await leaves.ask("hold", { name: "leaves" });
  await leaves.ask("hold", { name: "leaves, again" });
  leaves.close();
  await second.promise;
  assert.deepEqual(undone, ["leaves", "leaves, again"]);
});

test("an answer to a caller who has left is dropped, and disturbs nobody", async (t) => {
  const gone = Promise.withResolvers<void>();
  const finish = Promise.withResolvers<void>();
  const { path } = await open(t, {
    slow: (_args, caller) => {
      caller.onLeft(() => gone.resolve());
      return finish.promise;
    },
    status: () => ({}),
  });
  const { socket } = await raw(t, path);
  socket.write('{"id":1,"command":"slow"}\n', () => socket.destroy());
  await gone.promise;
  finish.resolve();
  const client = await ControlClient.connect(path);
  t.after(() => client.close());
  assert.deepEqual(await client.ask("status"), {});
});

test("when the guardian goes, orders that wait for their answer fail, and so do later ones", async (t) => {
  const { control, path } = await open(t, { never: () => new Promise(() => {}) });
  const client = await ControlClient.connect(path);
  await client.watch();
  const waiting = client.ask("never");
  control.close();
  await assert.rejects(waiting, { code: "gone" });
  await assert.rejects(client.ask("status"), { code: "gone" });
  assert.equal(existsSync(path), false, "the socket is gone from the directory");
  await assert.rejects(ControlClient.connect(path), { code: "ENOENT" });
});

test("a socket left behind by a guardian that was killed is replaced", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "remus-control-"));
  const path = join(directory, "control.sock");
  writeFileSync(path, "");
  const control = new ControlSocket(path);
  await control.take({ status: () => ({ fresh: true }) });
  t.after(() => {
    control.close();
    rmSync(directory, { recursive: true });
  });
  const client = await ControlClient.connect(path);
  t.after(() => client.close());
  assert.deepEqual(await client.ask("status"), { fresh: true });
});

test("with another role come other orders; who is connected and watches stays so", async (t) => {
  const { control, path } = await open(t, { status: () => ({ role: "backup" }) });
  const seen: HeardEvent[] = [];
  const client = await ControlClient.connect(path, (event) => seen.push(event));
  t.after(() => client.close());
  await client.watch();
  assert.deepEqual(await client.ask("status"), { role: "backup" });
  await control.take({ protect: () => ({ role: "primary" }) });
  assert.deepEqual(await client.ask("protect"), { role: "primary" });
  await assert.rejects(client.ask("status"), (error: OrderFailed) => error.code === "unknown-command");
  control.publish(phaseEvent("protected"));
  await client.ask("protect");
  assert.equal(seen.length, 1);
});

test("I5: a caller that has closed its half gets the answers it waits for, and then the end", async (t) => {
  const slow = Promise.withResolvers<{ done: true }>();
  const began = Promise.withResolvers<void>();
  const { path } = await open(t, {
    status: () => ({ fine: true }),
    protect: () => {
      began.resolve();
      return slow.promise;
    },
  });
  const { socket, answers } = await raw(t, path);
  // As `printf … | nc -q 30 -U` does: the last line has no newline, and then comes the end.
  socket.end('{"id":1,"command":"status"}\n{"id":2,"command":"protect"}');
  assert.deepEqual(await answers(1), [{ id: 1, result: { fine: true } }]);
  await began.promise;
  const ended = once(socket, "end", { signal: deadline() });
  slow.resolve({ done: true });
  assert.deepEqual((await answers(2))[1], { id: 2, result: { done: true } });
  await ended;
});

test("a watcher that has closed its half goes on being told, until it has gone", async (t) => {
  const { control, path } = await open(t, {});
  const { socket, answers } = await raw(t, path);
  socket.end('{"command":"watch"}\n');
  await answers(1);
  control.publish(phaseEvent("protected"));
  assert.deepEqual((await answers(2))[1], { event: phaseEvent("protected") });
});

test("I5: a hold ends with its caller, though it had closed its half before", async (t) => {
  const undone = Promise.withResolvers<void>();
  const { path } = await open(t, { hold: (_args, caller) => caller.onLeft(() => undone.resolve()) });
  const { socket, answers } = await raw(t, path);
  socket.end('{"command":"hold"}\n');
  assert.deepEqual(await answers(1), [{ result: {} }]);
  let early = true;
  void undone.promise.then(() => assert.ok(!early, "it still listens"));
  await new Promise(setImmediate);
  early = false;
  socket.destroy();
  await undone.promise;
});

test("what was said before the caller left is carried out, line by line", async (t) => {
  const done: unknown[] = [];
  const last = Promise.withResolvers<void>();
  const { path } = await open(t, { say: ({ n }) => void (done.push(n) === 20 && last.resolve()) });
  const { socket } = await raw(t, path);
  const lines = Array.from({ length: 20 }, (_, n) => `{"command":"say","arguments":{"n":${n}}}\n`);
  socket.write(lines.join(""), () => socket.destroy());
  await last.promise;
  assert.deepEqual(done, [...Array(20).keys()]);
});

test("I6: orders that come at once are taken one a turn, and more than 32 that wait are refused by their id", async (t) => {
  let turns = 0;
  const turnOf: number[] = [];
  const counting = () => {
    turns++;
    timer = setImmediate(counting);
  };
  let timer = setImmediate(counting);
  t.after(() => clearImmediate(timer));
  const { path } = await open(t, { samples: () => void turnOf.push(turns) });
  const { socket, answers } = await raw(t, path);
  const lines = Array.from({ length: 60 }, (_, id) => `{"id":${id},"command":"samples"}\n`);
  socket.write(lines.join(""));
  const all = (await answers(60)) as { id: number; error?: { code: string } }[];
  assert.equal(new Set(turnOf).size, turnOf.length, "one a turn of the event loop");
  assert.equal(turnOf.length, 32);
  const refused = all.filter(({ error }) => error !== undefined);
  assert.deepEqual(
    refused.map(({ id, error }) => [id, error!.code]),
    Array.from({ length: 28 }, (_, n) => [32 + n, "too-many"]),
  );
});

test("I6: a caller that gives orders and reads no answers is not answered further, and at last dropped", async (t) => {
  let given = 0;
  const left = Promise.withResolvers<void>();
  const { path } = await open(t, {
    hold: (_args, caller) => caller.onLeft(() => left.resolve()),
    status: () => ({ n: given++, filler: "x".repeat(50_000) }),
  });
  const { socket, answers } = await raw(t, path);
  socket.write('{"command":"hold"}\n');
  await answers(1);
  socket.pause();
  // Refusals of those above the limit take about a hundred bytes each.
  socket.write('{"command":"status"}\n'.repeat(20_000));
  await left.promise;
  assert.ok(given < 20, `${given} answers of 50 KB were made for a caller who reads none`);
});

test("I6: callers that wait for nothing make room for others; where all wait for something, one is turned away", async (t) => {
  const { path } = await open(t, { status: () => ({ fine: true }) });
  const idle = await raw(t, path);
  const left = once(idle.socket, "close", { signal: deadline() });
  const watchers = await Promise.all(Array.from({ length: 63 }, () => raw(t, path)));
  for (const { socket, answers } of watchers) {
    socket.write('{"command":"watch"}\n');
    await answers(1);
  }
  const operator = await raw(t, path);
  operator.socket.write('{"id":1,"command":"watch"}\n');
  assert.deepEqual(await operator.answers(1), [{ id: 1, result: {} }]);
  idle.socket.end();
  await left;
  const late = await raw(t, path);
  const [answer] = (await late.answers(1)) as { error: { code: string } }[];
  assert.equal(answer!.error.code, "too-many");
});

test("a socket that somebody has removed, with its directory or without, is there again; its callers stay", async (t) => {
  const root = mkdtempSync(join(tmpdir(), "remus-control-"));
  const directory = join(root, "run");
  const path = join(directory, "control.sock");
  const said: string[] = [];
  const control = new ControlSocket(path, (text) => said.push(text), 20);
  await control.take({ hello: () => ({}) });
  t.after(() => {
    control.close();
    rmSync(root, { recursive: true });
  });
  const watcher = await raw(t, path);
  for (const [index, gone] of [path, directory].entries()) {
    rmSync(gone, { recursive: true });
    for (const until = deadline(); !existsSync(path); await setTimeout(5)) until.throwIfAborted();
    const caller = await raw(t, path);
    caller.socket.write('{"id":1,"command":"hello"}\n');
    assert.deepEqual(await caller.answers(1), [{ id: 1, result: {} }]);
    watcher.socket.write('{"id":2,"command":"hello"}\n');
    assert.equal((await watcher.answers(index + 1)).length, index + 1);
    assert.equal(statSync(path).mode & 0o777, 0o600);
  }
  assert.match(said.join(), /somebody has removed .*control\.sock; it is there again/);
});
