import assert from "node:assert/strict";
import { once } from "node:events";
import { connect as connectTcp, createServer, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import type { Hello } from "../../src/codec/replication.ts";
import { encodeAck, encodeHello } from "../../src/codec/replication-encode.ts";
import { vmIdBytes } from "../../src/codec/replication-header.ts";
import { callFrom, isPeer } from "../../src/link/callers.ts";
import { connect } from "../../src/link/connect.ts";
import { LinkError } from "../../src/link/link-error.ts";
import type { Caller } from "../../src/link/listen.ts";
import { listen } from "../../src/link/listen.ts";
import { backup, DEADLINE, Heard, local, primary } from "./link-samples.ts";
import { HELLO, IDS, LAYOUT, layoutSample, wire } from "./replication-samples.ts";

const OPTIONS = { ids: IDS, hello: HELLO };

/** A TCP server that does as told with each connection; closed when the test ends. */
async function server(t: TestContext, onSocket: (socket: Socket) => void): Promise<number> {
  const all = new Set<Socket>();
  const listening = createServer((socket) => {
    all.add(socket);
    socket.on("error", () => {});
    onSocket(socket);
  });
  await once(listening.listen(0, "127.0.0.1"), "listening");
  t.after(() => {
    listening.close();
    for (const socket of all) socket.destroy();
  });
  return (listening.address() as { port: number }).port;
}

/** A socket that was closed, politely or by a reset. */
function ended(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.on("error", () => {}).once("close", () => resolve()));
}

async function rejected(attempt: Promise<unknown>): Promise<LinkError> {
  const error = await attempt.then(
    () => assert.fail("connected"),
    (e: unknown) => e,
  );
  assert.ok(error instanceof LinkError, String(error));
  return error;
}

test("a primary is welcomed and both sides talk", DEADLINE, async (t) => {
  const callers: Caller[] = [];
  const b = await backup(t, {
    onPrimary: (caller) => {
      callers.push(caller);
      b.sessions.push(caller.welcome(b.heard));
    },
  });
  const a = await primary(t, b.listener.ports);
  assert.deepEqual(a.welcome, { host: "host-b", generation: 7, disks: [] });
  assert.deepEqual(callers[0]?.hello, HELLO);
  assert.equal(callers[0]?.generation, 7);
  a.session.send(layoutSample(LAYOUT).frame);
  await b.heard.message("layout");
  b.sessions[0]!.send(encodeAck(IDS, 0));
  assert.equal((await a.heard.message("ack")).epoch, 0);
  assert.deepEqual(b.turnedAway, []);
});

test(
  "both sides beat while nothing else is sent, say how much has come, and nobody is called silent",
  DEADLINE,
  async (t) => {
    const b = await backup(t, { heartbeatMs: 5, detectionMs: 10_000 });
    const a = await primary(t, b.listener.ports, { heartbeatMs: 5, detectionMs: 10_000 });
    for (const side of [a.heard, b.heard]) {
      assert.equal((await side.message("heartbeat", 9)).received, 0);
      assert.deepEqual(side.silent, []);
    }
    a.session.send(layoutSample(LAYOUT).frame);
    const told = () => a.heard.messages.find((one) => one.type === "heartbeat" && one.received === 1);
    await a.heard.until(told);
  },
);

test(
  "I4: a peer that hangs without closing is told as silent, once, and the connection stays",
  DEADLINE,
  async (t) => {
    const b = await backup(t, { heartbeatMs: 5, detectionMs: 60 });
    // A primary made by hand: it says HELLO, and then nothing any more.
    const socket = connectTcp(b.listener.ports[0]!, "127.0.0.1");
    t.after(() => socket.destroy());
    socket.write(wire([{ frame: encodeHello(IDS, HELLO) }]));
    socket.resume();
    const silentMs = await b.heard.until(() => b.heard.silent[0]);
    assert.ok(silentMs >= 60, `told after ${silentMs} ms`);
    assert.equal(b.sessions[0]!.closed, undefined);
    socket.write(wire([layoutSample(LAYOUT)]));
    await b.heard.message("layout");
    await b.heard.until(() => b.heard.silent[1]);
    assert.equal(b.heard.messages.length, 1);
  },
);

test("I6: no heartbeats pile up behind bytes that a hanging peer does not take", DEADLINE, async (t) => {
  const slow = { heartbeatMs: 2, detectionMs: 60_000 };
  const b = await backup(t, slow);
  const a = await primary(t, b.listener.ports, slow);
  // A second pair that beats at the same pace is the clock.
  const clock = await primary(t, (await backup(t, slow)).listener.ports, slow);
  b.sessions[0]!.connections[0]!.pause();
  const filler = layoutSample({ ...LAYOUT, header: new Uint8Array(1_000_000) }).frame;
  for (let i = 0; i < 32; i++) a.session.send(filler);
  await clock.heard.message("heartbeat", 30);
  const waiting = a.session.bufferedBytes;
  assert.ok(waiting > 0, "the kernel took everything: the test needs more filler");
  await clock.heard.message("heartbeat", 60);
  assert.ok(a.session.bufferedBytes <= waiting, `${a.session.bufferedBytes - waiting} bytes more`);
});

test(
  "a second primary is refused as busy; the first does not notice; after it, the next is welcomed",
  DEADLINE,
  async (t) => {
    const b = await backup(t);
    const first = await primary(t, b.listener.ports);
    const error = await rejected(primary(t, b.listener.ports));
    assert.equal(error.code, "refused");
    assert.equal(error.refuse?.code, "busy");
    assert.match(
      error.message,
      /^backup 127\.0\.0\.1:\d+ refuses \(busy\): host-b already serves 127\.0\.0\.1:\d+; end/,
    );
    assert.equal(b.turnedAway[0]?.kind, "primary-refused");
    first.session.send(layoutSample(LAYOUT).frame);
    await b.heard.message("layout");
    first.session.destroy("over");
    // A reset, if something lay there unread.
    assert.match((await b.heard.end()).kind, /^(peer-closed|broken)$/);
    await primary(t, b.listener.ports);
  },
);

test("a stranger with garbage is dropped with one event and disturbs no session", DEADLINE, async (t) => {
  const b = await backup(t);
  const a = await primary(t, b.listener.ports);
  const stranger = connectTcp(b.listener.ports[0]!, "127.0.0.1");
  t.after(() => stranger.destroy());
  stranger.write("x".repeat(100_000));
  await ended(stranger);
  const event = await b.event(0);
  assert.equal(event.kind, "stranger-dropped");
  assert.match(event.message, /^127\.0\.0\.1:\d+: replication link: magic is "0x78787878"/);
  a.session.send(layoutSample(LAYOUT).frame);
  await b.heard.message("layout");
  assert.equal(b.turnedAway.length, 1);
  assert.equal(a.session.closed, undefined);
});

test(
  "who does not say HELLO in time is dropped; who says something before WELCOME is, too",
  DEADLINE,
  async (t) => {
    const callers: Caller[] = [];
    const b = await backup(t, { helloDeadlineMs: 30, onPrimary: (caller) => callers.push(caller) });
    const mute = connectTcp(b.listener.ports[0]!, "127.0.0.1");
    await ended(mute);
    assert.match((await b.event(0)).message, /no HELLO within 30 ms/);
    const hasty = connectTcp(b.listener.ports[0]!, "127.0.0.1");
    hasty.write(wire([{ frame: encodeHello(IDS, HELLO) }, layoutSample(LAYOUT)]));
    await ended(hasty);
    const event = await b.event(1);
    assert.equal(event.kind, "primary-gone");
    assert.match(event.message, /message is "layout", expected none before WELCOME/);
    // An answer that comes too late finds its handlers told.
    const heard = new Heard();
    callers[0]!.welcome(heard);
    assert.equal((await heard.end()).kind, "protocol");
    callers[0]!.refuse({ code: "late", message: "late" });
  },
);

test("I6: strangers are bounded in number, and the oldest makes room", DEADLINE, async (t) => {
  const b = await backup(t, { helloDeadlineMs: 60_000 });
  const call = async () => {
    const stranger = connectTcp(b.listener.ports[0]!, "127.0.0.1");
    t.after(() => stranger.destroy());
    await once(stranger, "connect");
    return stranger;
  };
  const first = await call();
  for (let nth = 1; nth < 64; nth++) await call();
  const over = ended(first);
  await call();
  await over;
  assert.match((await b.event(0)).message, /others wait, and this one has said nothing/);
});

test(
  "I6: the primary gets in while others connect as fast as they can and say nothing, and the log stays short",
  DEADLINE,
  async (t) => {
    const b = await backup(t);
    const sockets = new Set<ReturnType<typeof connectTcp>>();
    let flooding = true;
    let connections = 0;
    const flood = async () => {
      while (flooding) {
        const stranger = connectTcp(b.listener.ports[0]!, "127.0.0.1").on("error", () => {});
        sockets.add(stranger);
        await once(stranger, "connect").catch(() => {});
        connections++;
      }
    };
    const floods = [flood(), flood(), flood()];
    while (connections < 200)
      await once(connectTcp(b.listener.ports[0]!, "127.0.0.1"), "connect").then(() => connections++);
    const a = await primary(t, b.listener.ports);
    flooding = false;
    await Promise.all(floods);
    for (const one of sockets) one.destroy();
    assert.equal(a.session.closed, undefined);
    assert.ok(b.turnedAway.length <= 2, `${b.turnedAway.length} lines for ${connections} connections`);
  },
);

test(
  "a stranger learns nothing: neither the VM's UUID, nor a name, a number or a field; the log here has it all",
  DEADLINE,
  async (t) => {
    const secret = { code: "other-machine", message: "vm.cpu is qemu64 with QEMU 7.2.22 here" };
    const refuse = (caller: Caller) => caller.refuse(secret);
    for (const [peers, ids, told] of [
      // Another VM's, from wherever.
      [
        [{ host: "127.0.0.1", port: 1 }],
        { ...IDS, vmId: vmIdBytes("11111111-2222-3333-4444-555555555555") },
        /wrong-vm/,
      ],
      // One that knows the UUID, where the other host's address is not known.
      [undefined, IDS, /other-machine: vm\.cpu is/],
    ] as const) {
      const b = await backup(t, {
        onPrimary: refuse,
        ...(peers === undefined ? { peers } : { peers }),
      } as object);
      const error = await rejected(primary(t, b.listener.ports, { ids }));
      assert.equal(error.refuse?.code, "not-accepted");
      assert.doesNotMatch(error.message, /0b9f51c6|host-b|QEMU|vm\.|generation 7/);
      assert.match((await b.event(0)).message, told);
    }
    const known = await backup(t, { onPrimary: refuse });
    assert.deepEqual((await rejected(primary(t, known.listener.ports))).refuse, secret);
  },
);

test(
  "I6: whoever comes from elsewhere cannot crowd out the other host, and is told nothing",
  DEADLINE,
  async (t) => {
    const b = await backup(t, {
      addresses: [{ host: "0.0.0.0", port: 0 }],
      peers: [{ host: "127.0.0.2", port: 7000 }],
      helloDeadlineMs: 60_000,
      onPrimary: (caller) => caller.refuse({ code: "memory", message: "a secret" }),
    });
    const call = async (localAddress: string) => {
      const socket = connectTcp({ port: b.listener.ports[0]!, host: "127.0.0.1", localAddress });
      t.after(() => socket.destroy());
      await once(socket, "connect");
      return socket;
    };
    const known = await call("127.0.0.2");
    let over = false;
    void ended(known).then(() => {
      over = true;
    });
    const first = ended(await call("127.0.0.1"));
    for (let nth = 0; nth < 64; nth++) await call("127.0.0.1");
    await first;
    assert.equal(over, false);
    assert.equal((await rejected(primary(t, b.listener.ports))).refuse?.code, "not-accepted");
    const from = [{ host: "127.0.0.2", port: 1 }];
    assert.equal((await rejected(primary(t, b.listener.ports, { from }))).refuse?.code, "memory");
  },
);

test("the other host is known by its address, however that is written, and calls from the one that it listens on", () => {
  const peers = ["10.0.0.1", "fd00:0:0:0::1", "fe80::1%eth0"].map((host) => ({ host, port: 7000 }));
  for (const from of ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "fe80::1%eth0"])
    assert.ok(isPeer(from, peers), from);
  for (const from of ["10.0.0.2", "::ffff:10.0.0.2", "fd00::2", "fe80::1%eth1", undefined])
    assert.ok(!isPeer(from, peers), from);
  assert.ok(!isPeer("10.0.0.1", undefined));
  assert.deepEqual(callFrom(peers[0]), { localAddress: "10.0.0.1" });
  for (const host of ["0.0.0.0", "::"]) assert.equal(callFrom({ host, port: 1 }), undefined);
});

test("another protocol is refused with a sentence for the operator", DEADLINE, async (t) => {
  const b = await backup(t);
  // One of another protocol need not know the fields of ours.
  const { session: _session, disks: _disks, ...old } = HELLO;
  for (const hello of [{ ...HELLO, protocol: 99 }, { ...old, protocol: 1 } as Hello]) {
    const other = await rejected(primary(t, b.listener.ports, { hello }));
    assert.equal(other.refuse?.code, "protocol-version");
  }
  await primary(t, b.listener.ports);
});

test("a caller may be refused later, with the backup's own reason", DEADLINE, async (t) => {
  const b = await backup(t, {
    onPrimary: async (caller) => {
      await Promise.resolve();
      caller.refuse({ code: "memory", message: "host-b has 100 MiB free and the VM needs 256 MiB" });
    },
  });
  const error = await rejected(primary(t, b.listener.ports));
  assert.deepEqual(error.refuse, {
    code: "memory",
    message: "host-b has 100 MiB free and the VM needs 256 MiB",
  });
});

test("connect(): each way to fail has its code and says who, where and what to do", DEADLINE, async (t) => {
  const handlers = new Heard();
  const gone = createServer();
  await once(gone.listen(0, "127.0.0.1"), "listening");
  const { port: free } = gone.address() as { port: number };
  gone.close();
  await once(gone, "close");
  const unreachable = await rejected(connect({ ...OPTIONS, addresses: local([free]), handlers }));
  assert.equal(unreachable.code, "unreachable");
  assert.match(
    unreachable.message,
    /cannot reach backup 127\.0\.0\.1:\d+: .*ECONNREFUSED.*; start the backup guardian/,
  );

  const mute = await server(t, () => {});
  const timeout = await rejected(
    connect({ ...OPTIONS, addresses: local([mute]), handlers, timeoutMs: 1000 }),
  );
  assert.equal(timeout.code, "timeout");
  assert.match(timeout.message, /took the connection but did not answer HELLO within 1000 ms; see the log/);

  const hangsUp = await server(t, (socket) => socket.end());
  const closed = await rejected(connect({ ...OPTIONS, addresses: local([hangsUp]), handlers }));
  assert.equal(closed.code, "closed");
  assert.match(closed.message, /no welcome from backup .* closed the connection/);

  const web = await server(t, (socket) => socket.end(`HTTP/1.1 400 Bad Request\r\n${"x".repeat(60)}\r\n`));
  const protocol = await rejected(connect({ ...OPTIONS, addresses: local([web]), handlers }));
  assert.match(protocol.message, /no welcome from .* magic is "0x48545450"/);

  const heir = await backup(t, { generation: () => 8, onPrimary: (caller) => caller.tellTakeover(4) });
  const toldSo = await rejected(connect({ ...OPTIONS, addresses: local(heir.listener.ports), handlers }));
  assert.equal(toldSo.code, "taken-over");
  assert.equal(toldSo.generation, 8, "I3: whoever tried to connect must be able to stop its VM");
  assert.match(toldSo.message, /runs the VM as generation 8; this copy must stay stopped/);
  assert.equal((await heir.event(0)).message, "taken over as generation 8");

  const chatty = await server(t, (socket) => socket.write(wire([{ frame: encodeAck(IDS, 4) }])));
  assert.match(
    (await rejected(connect({ ...OPTIONS, addresses: local([chatty]), handlers }))).message,
    /answered HELLO with ack/,
  );
  assert.deepEqual(handlers.closed, [], "the handlers are for the time after WELCOME");
});

test("listen(): an address that is taken is told with what to do", DEADLINE, async (t) => {
  const b = await backup(t);
  const again = {
    addresses: local(b.listener.ports),
    vmId: IDS.vmId,
    host: "host-b",
    generation: () => 0,
  };
  const error = await rejected(listen({ ...again, onPrimary: () => {} }));
  assert.equal(error.code, "cannot-listen");
  assert.match(error.message, /cannot listen on 127\.0\.0\.1:\d+: .*EADDRINUSE.*; end what uses it/);
});

test(
  "a heartbeat too slow for its detection time is a bug of ours, told at the start",
  DEADLINE,
  async (t) => {
    const b = await backup(t);
    await assert.rejects(
      connect({
        ...OPTIONS,
        addresses: local(b.listener.ports),
        handlers: new Heard(),
        heartbeatMs: 100,
        detectionMs: 200,
      }),
      /heartbeat every 100 ms: expected at most a third of the detection time, 200 ms/,
    );
  },
);
