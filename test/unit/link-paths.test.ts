// A session over several paths, each through a proxy that makes faults of its own.

import assert from "node:assert/strict";
import { connect as connectTcp } from "node:net";
import { test } from "node:test";
import { DISK_WRITE, type ReplicationMessage } from "../../src/codec/replication.ts";
import { encodeDisk } from "../../src/codec/replication-disk.ts";
import { encodeAck, encodeHello, encodeJoin, encodeTakeover } from "../../src/codec/replication-encode.ts";
import { ReplicationParser } from "../../src/codec/replication-parser.ts";
import { FaultProxy } from "../../src/lab/fault-proxy.ts";
import type { Stray } from "../../src/link/listen.ts";
import type { Session } from "../../src/link/session.ts";
import { allUp, listening, pair, SIGNS } from "./link-paths-samples.ts";
import { backup, DEADLINE, Heard, local, primary } from "./link-samples.ts";
import { diskEntry, HELLO, IDS, SESSION, wire } from "./replication-samples.ts";

/** Which path carries. */
function carrier(session: Session): number {
  return session.paths.findIndex(({ carries }) => carries);
}

function disk(epoch: number, bytes = 700) {
  return encodeDisk(IDS, epoch, [diskEntry(DISK_WRITE, 0, 0, bytes)]);
}

function epochs(heard: Heard, type: "disk" | "ack"): number[] {
  return heard.messages.filter((message) => message.type === type).map(({ epoch }) => epoch);
}

const upTo = (count: number) => Array.from({ length: count }, (_, i) => i);

for (const [how, strike, mend] of [
  ["falls silent", (proxy: FaultProxy) => proxy.pause(), (proxy: FaultProxy) => proxy.resume()],
  [
    "falls silent in one direction, towards the backup",
    (proxy: FaultProxy) => proxy.pause("up"),
    (proxy: FaultProxy) => proxy.resume(),
  ],
  [
    "falls silent in one direction, towards the primary",
    (proxy: FaultProxy) => proxy.pause("down"),
    (proxy: FaultProxy) => proxy.resume(),
  ],
  ["is reset", (proxy: FaultProxy) => proxy.cut(), () => {}],
  ["is left half open at the primary", (proxy: FaultProxy) => proxy.halfOpen("client"), () => {}],
  ["is left half open at the backup", (proxy: FaultProxy) => proxy.halfOpen("target"), () => {}],
] as const)
  test(
    `I4: the path that carries ${how}: nothing is lost, doubled or out of order, and it is told and mended`,
    DEADLINE,
    async (t) => {
      const both = await pair(t, 2, { detectionMs: 1_000 });
      const { a, b, atA, atB, proxies } = both;
      assert.deepEqual([carrier(a), carrier(b)], [0, 0]);
      const say = (epoch: number): void => {
        a.send(disk(epoch));
        b.send(encodeAck(IDS, epoch));
      };
      for (let epoch = 0; epoch < 20; epoch++) say(epoch);
      strike(proxies[0]!);
      for (let epoch = 20; epoch < 40; epoch++) say(epoch);
      await atB.message("disk", 39);
      await atA.message("ack", 39);
      const down = await atA.until(() => atA.paths.find(({ up, path }) => !up && path === 0));
      assert.match(down.reason, /\S/);
      mend(proxies[0]!);
      await atA.until(() => atA.paths.find(({ up, path }) => up && path === 0));
      await allUp(both);
      for (let epoch = 40; epoch < 60; epoch++) say(epoch);
      await atB.message("disk", 59);
      await atA.message("ack", 59);
      assert.deepEqual(epochs(atB, "disk"), upTo(60));
      assert.deepEqual(epochs(atA, "ack"), upTo(60));
      assert.deepEqual([a.closed, b.closed], [undefined, undefined]);
      assert.deepEqual([atA.silent, atB.silent], [[], []]);
      await atA.until(() => a.keptBytes === 0 || undefined);
      await atB.until(() => b.keptBytes === 0 || undefined);
    },
  );

test("the stream comes back to the first path when that has been well for a while", DEADLINE, async (t) => {
  const both = await pair(t, 2, { heartbeatMs: 5, lagMs: 20, detectionMs: 40 });
  both.proxies[0]!.cut();
  await both.atA.until(() => carrier(both.a) === 1 || undefined);
  await allUp(both);
  await both.atA.until(() => carrier(both.a) === 0 || undefined);
  await both.atB.until(() => carrier(both.b) === 0 || undefined);
  both.a.send(disk(0));
  await both.atB.message("disk");
  assert.deepEqual([both.a.closed, both.b.closed], [undefined, undefined]);
});

test(
  "a session begins over the second path when the first leads nowhere; that is told, and mended later",
  DEADLINE,
  async (t) => {
    const { b, proxies } = await listening(t, 2);
    const [first, second] = proxies.map(({ port }) => port);
    proxies[0]!.close();
    const { session, heard } = await primary(t, [first!, second!], SIGNS);
    assert.equal(carrier(session), 1);
    const down = await heard.until(() => heard.paths[0]);
    assert.equal(down.up, false);
    assert.match(down.reason, /cannot reach backup 127\.0\.0\.1:\d+: .*ECONNREFUSED/);
    session.send(disk(0));
    await b.heard.message("disk");
    const to = { address: "127.0.0.1", port: b.listener.ports[0]! };
    const again = await FaultProxy.start({ port: first!, to });
    t.after(() => again.close());
    assert.equal((await heard.until(() => heard.paths[1])).up, true);
    assert.deepEqual(b.turnedAway, []);
  },
);

test("connect(): what is wrong with each address is told", DEADLINE, async (t) => {
  const { proxies } = await listening(t, 2);
  for (const proxy of proxies) proxy.close();
  const ports = proxies.map(({ port }) => port);
  await assert.rejects(primary(t, ports), (error: Error) => {
    for (const port of ports)
      assert.match(error.message, new RegExp(`127\\.0\\.0\\.1:${port}: .*ECONNREFUSED`));
    return true;
  });
});

test(
  "I4: the session is over with its last path, once, at both ends; the one before was an event",
  DEADLINE,
  async (t) => {
    const { a, b, atA, atB, proxies } = await pair(t);
    proxies[1]!.close();
    await atA.until(() => atA.paths.find(({ up }) => !up));
    assert.equal(a.closed, undefined);
    proxies[0]!.close();
    assert.match((await atA.end()).kind, /peer-closed|broken/);
    assert.match((await atB.end()).kind, /peer-closed|broken/);
    assert.deepEqual([atA.closed.length, atB.closed.length], [1, 1]);
    await assert.rejects(a.whenBelow(0));
    b.send(encodeAck(IDS, 0));
  },
);

test("I4: silence of all paths is the peer's silence, told once; they stay open", DEADLINE, async (t) => {
  const signs = { heartbeatMs: 5, lagMs: 30, detectionMs: 150 };
  const suspected: boolean[] = [];
  const { b, atB, proxies } = await pair(t, 2, { ...signs, onSuspicion: (one) => suspected.push(one) });
  for (const proxy of proxies) proxy.pause();
  assert.ok((await atB.until(() => atB.silent[0])) >= 150);
  assert.equal(b.closed, undefined);
  assert.ok(b.connections.length > 0, "TAKEOVER must still reach a primary that hangs");
  assert.ok(suspected.includes(true));
  assert.equal(atB.silent.length, 1);
});

test(
  "I3: once the other side was given up, nothing is said again as if it were news",
  DEADLINE,
  async (t) => {
    const { b, atA, atB, proxies } = await pair(t, 2, { heartbeatMs: 5, lagMs: 1_000, detectionMs: 150 });
    for (const proxy of proxies) proxy.pause();
    b.send(encodeAck(IDS, 7));
    await atB.until(() => atB.silent[0]);
    const beats = atA.messages.length;
    proxies[0]!.cut();
    proxies[1]!.resume();
    await atB.until(() => (carrier(b) === 0 && b.connections.length === 1) || undefined);
    await atA.until(() => atA.messages.length > beats + 20 || undefined);
    assert.deepEqual(epochs(atA, "ack"), []);
  },
);

test("I3: a last word goes out on every path and is heard once, whichever is stuck", DEADLINE, async (t) => {
  for (const stuck of [0, 1]) {
    const { a, b, atA, proxies } = await pair(t);
    proxies[stuck]!.pause("down");
    b.finish(encodeTakeover({ ...IDS, generation: 8 }, 40), "this host has taken over");
    assert.equal((await atA.message("takeover")).epoch, 40);
    proxies[stuck]!.resume();
    await atA.end();
    assert.equal(atA.messages.filter(({ type }) => type === "takeover").length, 1);
    assert.notEqual(a.closed, undefined);
  }
});

test(
  "I3: who wants to mend a path of a session whose time is over hears of the takeover",
  DEADLINE,
  async (t) => {
    const strays: Stray[] = [];
    const { b, proxies } = await listening(t, 2, {
      generation: () => 8,
      onStray: (stray) => {
        strays.push(stray);
        stray.tellTakeover(40);
      },
    });
    const { session, heard } = await primary(
      t,
      proxies.map(({ port }) => port),
      SIGNS,
    );
    await heard.until(() => session.paths.every(({ up }) => up) || undefined);
    // The first path hangs; the backup knows nothing of the session any more, and the word of that is lost
    // with the second.
    proxies[0]!.pause("down");
    proxies[1]!.pause("down");
    b.sessions[0]!.destroy("gone");
    proxies[1]!.cut();
    proxies[1]!.resume();
    const takeover = await heard.message("takeover");
    assert.deepEqual([takeover.generation, takeover.epoch], [8, 40]);
    assert.equal(strays[0]?.generation, IDS.generation);
  },
);

test(
  "a path of an old session, and one that comes in at another's address, are refused and disturb nobody",
  DEADLINE,
  async (t) => {
    const { b, listener } = await (async () => {
      const { b, proxies } = await listening(t, 2);
      await primary(
        t,
        proxies.map(({ port }) => port),
        SIGNS,
      );
      return { b, listener: b.listener };
    })();
    const refused = async (port: number, session: string, path: number): Promise<string> => {
      const socket = connectTcp(port, "127.0.0.1");
      t.after(() => socket.destroy());
      socket.write(wire([{ frame: encodeJoin(IDS, { session, path }) }]));
      const answers: ReplicationMessage[] = [];
      const parser = new ReplicationParser({
        receiver: "primary",
        vmId: IDS.vmId,
        onMessage: (m) => answers.push(m),
      });
      for await (const chunk of socket) parser.push(chunk as Buffer);
      const [answer] = answers;
      assert.ok(answer?.type === "refuse");
      return answer.refuse.code;
    };
    const old = "11111111-2222-3333-4444-555555555555";
    assert.equal(await refused(listener.ports[0]!, old, 0), "no-session");
    assert.equal(await refused(listener.ports[0]!, SESSION, 1), "wrong-path");
    assert.equal(await refused(listener.ports[1]!, SESSION, 5), "wrong-path");
    assert.equal(b.sessions[0]!.closed, undefined);
  },
);

test(
  "a path that the backup still holds is replaced by the one that the primary makes anew",
  DEADLINE,
  async (t) => {
    const { a, b, atB, proxies } = await pair(t, 2, { lagMs: 5_000, detectionMs: 20_000 });
    const before = b.connections[0];
    proxies[0]!.halfOpen("target");
    await atB.until(() => (b.connections.length === 2 && b.connections[0] !== before) || undefined);
    a.send(disk(0));
    await atB.message("disk");
    assert.notEqual(before!.closed, undefined);
  },
);

test(
  "I6: the memory of a message is free when it is confirmed, not when it has left; what is kept has a limit",
  DEADLINE,
  async (t) => {
    const { a, atB, proxies } = await pair(t, 2, { lagMs: 10_000, detectionMs: 40_000 });
    for (const proxy of proxies) proxy.pause("down");
    const told: string[] = [];
    a.send(disk(0), { left: () => told.push("left"), free: () => told.push("free") });
    await atB.message("disk");
    await a.whenBelow(0);
    assert.deepEqual(told, ["left"]);
    assert.ok(a.keptBytes > 0);
    assert.equal(a.bufferedBytes, 0);
    for (const proxy of proxies) proxy.resume("down");
    await atB.until(() => a.keptBytes === 0 || undefined);
    assert.deepEqual(told, ["left", "free"]);
    for (const proxy of proxies) proxy.pause("down");
    for (let sent = 0; sent < 300 && a.closed === undefined; sent++) a.send(disk(sent, 1 << 20));
    assert.equal(a.closed?.kind, "overrun");
  },
);

test("I6: a session of one path keeps nothing: what has left is free", DEADLINE, async (t) => {
  const { a, atB } = await pair(t, 1);
  const told: string[] = [];
  a.send(disk(0), { left: () => told.push("left"), free: () => told.push("free") });
  assert.equal(a.keptBytes, 0);
  await atB.message("disk");
  await a.whenBelow(0);
  assert.deepEqual(told, ["left", "free"]);
  assert.deepEqual(atB.paths, []);
});

test("a message that is not of the stream is no message to send", DEADLINE, async (t) => {
  const { a } = await pair(t, 1);
  assert.throws(() => a.send(encodeHello(IDS, HELLO)), RangeError);
});

test(
  "of several addresses one that cannot be had is told, and tried again; without any there is an error",
  DEADLINE,
  async (t) => {
    const blocker = await FaultProxy.start({ to: { address: "127.0.0.1", port: 9 } });
    const told = new Heard();
    const addresses = local([0, blocker.port]);
    const { b } = await listening(t, 2, { addresses, onAddress: told.onPath });
    const down = await told.until(() => told.paths[0]);
    assert.deepEqual([down.path, down.up], [1, false]);
    assert.match(down.reason, /cannot listen on 127\.0\.0\.1:\d+: .*EADDRINUSE/);
    assert.equal(b.listener.ports[1], 0);
    const { session } = await primary(t, [b.listener.ports[0]!, blocker.port], SIGNS);
    await assert.rejects(backup(t, { addresses: local([blocker.port, blocker.port]) }), /cannot listen on/);
    const { port } = blocker;
    blocker.close();
    assert.deepEqual([(await told.until(() => told.paths[1])).up, b.listener.ports[1]], [true, port]);
    assert.equal(session.closed, undefined);
  },
);
