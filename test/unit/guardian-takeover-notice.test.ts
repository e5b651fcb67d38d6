import assert from "node:assert/strict";
import { type AddressInfo, connect as connectTcp, createServer } from "node:net";
import { test } from "node:test";
import type { ReplicationMessage } from "../../src/codec/replication.ts";
import { encodeJoin } from "../../src/codec/replication-encode.ts";
import { uuidText } from "../../src/codec/replication-header.ts";
import { ReplicationParser } from "../../src/codec/replication-parser.ts";
import type { PrimaryState } from "../../src/core/primary-protocol.ts";
import type { PrimaryConfig } from "../../src/guardian/config/config.ts";
import type { Context } from "../../src/guardian/context.ts";
import { openTakeoverNotice } from "../../src/guardian/primary/takeover-notice.ts";
import { connect } from "../../src/link/connect.ts";
import { LinkError } from "../../src/link/link-error.ts";
import { HELLO, IDS, SESSION, wire } from "./replication-samples.ts";

test("who took the VM over says so, until it has given the VM away itself: its new owner must not be killed (I4)", async (t) => {
  let state: PrimaryState = { phase: "unprotected", generation: 8 };
  const config = {
    vm: { uuid: uuidText(IDS.vmId) },
    replication: { listen: [{ host: "127.0.0.1", port: 0 }], peer: [{ host: "127.0.0.1", port: 1 }] },
    timing: { heartbeatMs: 25, detectionMs: 200 },
  } as unknown as PrimaryConfig;
  const context = { config, log: { warn() {} } } as unknown as Context<PrimaryConfig>;
  const listener = await openTakeoverNotice(context, 40, () => state);
  assert.ok(listener !== undefined);
  t.after(() => listener.close());
  const call = async () => {
    const error = await connect({
      addresses: [{ host: "127.0.0.1", port: listener.ports[0]! }],
      ids: IDS,
      hello: HELLO,
      handlers: { onMessage() {}, onClosed() {}, onSilent() {} },
    }).then(
      () => assert.fail("connected"),
      (error: unknown) => error,
    );
    assert.ok(error instanceof LinkError, String(error));
    return error;
  };
  assert.equal((await call()).generation, 8);
  state = { phase: "superseded", generation: 7, planned: true };
  const refused = await call();
  assert.equal(refused.generation, undefined);
  assert.match(refused.message, /ran the VM before/);
  // It has not heard yet that the other host runs the VM.
  state = { phase: "handing-over", generation: 6, acked: 3, held: true, leaveBecause: undefined };
  assert.match((await call()).message, /ran the VM before/);
});

test("who only wants to mend a path of its old session hears the same: its VM must stop (I3)", async (t) => {
  const config = {
    vm: { uuid: uuidText(IDS.vmId) },
    replication: {
      listen: [
        { host: "127.0.0.1", port: 0 },
        { host: "127.0.0.1", port: 0 },
      ],
    },
    timing: { heartbeatMs: 25, detectionMs: 200 },
  } as unknown as PrimaryConfig;
  const context = { config, log: { warn() {} } } as unknown as Context<PrimaryConfig>;
  const listener = await openTakeoverNotice(context, 40, () => ({ phase: "unprotected", generation: 8 }));
  assert.ok(listener !== undefined);
  t.after(() => listener.close());
  const socket = connectTcp(listener.ports[1]!, "127.0.0.1");
  t.after(() => socket.destroy());
  socket.write(wire([{ frame: encodeJoin(IDS, { session: SESSION, path: 1 }) }]));
  const heard: ReplicationMessage[] = [];
  const onMessage = (message: ReplicationMessage) => heard.push(message);
  const parser = new ReplicationParser({ receiver: "primary", vmId: IDS.vmId, onMessage });
  for await (const chunk of socket) parser.push(chunk as Buffer);
  assert.deepEqual(
    heard.map(({ type, generation, epoch }) => ({ type, generation, epoch })),
    [{ type: "takeover", generation: 8, epoch: 40 }],
  );
});

test("I5: a survivor whose addresses are taken or gone listens there when it can, with an alarm meanwhile", async (t) => {
  const taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
  t.after(() => taken.close());
  const { port } = taken.address() as AddressInfo;
  const listens = [
    // Of a network for documents: no host has it.
    [{ host: "192.0.2.1", port: 7000 }],
    [{ host: "127.0.0.1", port }],
    [
      { host: "127.0.0.1", port },
      { host: "192.0.2.1", port: 7000 },
    ],
  ];
  const alarms: string[] = [];
  const publish = ({ about, raised, text }: Readonly<Record<string, unknown>>) =>
    void alarms.push(`${about} ${raised}: ${text}`);
  for (const listen of listens) {
    const config = {
      vm: { uuid: uuidText(IDS.vmId) },
      replication: { listen },
      timing: { heartbeatMs: 25, detectionMs: 200 },
    } as unknown as PrimaryConfig;
    const log = { info() {}, warn() {} };
    const context = { config, control: { publish }, log } as unknown as Context<PrimaryConfig>;
    const listener = await openTakeoverNotice(context, 40, () => ({ phase: "unprotected", generation: 8 }));
    t.after(() => listener!.close());
    assert.match(alarms.at(-1)!, /^listen true: cannot listen on .*It is tried again/);
    if (listen.length === 2) assert.match(alarms.at(-1)!, /EADDRINUSE.*; cannot listen on .*EADDRNOTAVAIL/);
    if (listen[0]!.port !== port || listen.length > 1) continue;
    await new Promise((resolve) => taken.close(resolve));
    for (const end = Date.now() + 20_000; !alarms.at(-1)!.startsWith("listen false"); ) {
      assert.ok(Date.now() < end, "it listens at last");
      await new Promise((next) => setTimeout(next, 10));
    }
    assert.deepEqual(listener!.ports, [port]);
  }
});
