// Both guardians' ends of a link of several paths: what the backup refuses, and what the operator hears.

import assert from "node:assert/strict";
import { connect as connectTcp } from "node:net";
import { type TestContext, test } from "node:test";
import type { ReplicationMessage } from "../../src/codec/replication.ts";
import { encodeJoin } from "../../src/codec/replication-encode.ts";
import { uuidText } from "../../src/codec/replication-header.ts";
import { ReplicationParser } from "../../src/codec/replication-parser.ts";
import type { BackupState } from "../../src/core/backup.ts";
import { BackupLink, type BackupLinkOptions } from "../../src/guardian/backup/link.ts";
import { PathWatch } from "../../src/guardian/watch/path-watch.ts";
import { FaultProxy } from "../../src/lab/fault-proxy.ts";
import { connect } from "../../src/link/connect.ts";
import { type Address, LinkError } from "../../src/link/link-error.ts";
import type { Session } from "../../src/link/session.ts";
import { DEADLINE, Heard, local } from "./link-samples.ts";
import { HELLO, IDS, SESSION, wire } from "./replication-samples.ts";

interface Told {
  readonly raised: boolean;
  readonly path: number;
  readonly text: string;
}

/** A free port each, for the time being. */
async function freeAddresses(count: number): Promise<Address[]> {
  const proxies = await Promise.all(
    Array.from({ length: count }, () => FaultProxy.start({ to: { address: "127.0.0.1", port: 9 } })),
  );
  const ports = proxies.map(({ port }) => port);
  for (const proxy of proxies) proxy.close();
  return local(ports);
}

async function backupLink(t: TestContext, addresses: readonly Address[]) {
  const alarms: Told[] = [];
  const heard = new Heard();
  const world = { state: { phase: "waiting", generation: 7 } as BackupState };
  const publish = (event: Readonly<Record<string, unknown>>) => {
    alarms.push(event as unknown as Told);
    heard.onSilent(0);
  };
  const options = {
    context: {
      config: {
        vm: { uuid: uuidText(IDS.vmId) },
        host: "host-b",
        replication: { listen: addresses, peer: addresses },
        timing: { heartbeatMs: 10, detectionMs: 2_000 },
      },
      log: { warn() {}, info() {}, error() {} },
      control: { publish },
    },
    machine: HELLO.machine,
    disks: { images: async () => [], begin() {} },
    intake: { reset() {}, take() {} },
    state: () => world.state,
    feed: () => {
      world.state = { phase: "filling", generation: 7 };
    },
    tookOverAt: () => 40,
    deaf: () => false,
    onHandover() {},
    onInput() {},
    onLost() {},
    onSuspicion() {},
  };
  const link = new BackupLink(options as unknown as BackupLinkOptions);
  await link.open();
  t.after(() => {
    link.shut();
    link.close();
  });
  return { link, alarms, heard, world };
}

async function primaryTo(
  t: TestContext,
  addresses: readonly Address[],
): Promise<{ session: Session; heard: Heard }> {
  const heard = new Heard();
  const signs = { heartbeatMs: 10, detectionMs: 2_000 };
  const { session } = await connect({ addresses, ids: IDS, hello: HELLO, handlers: heard, ...signs });
  t.after(() => session.destroy("the test is over"));
  return { session, heard };
}

async function refusal(attempt: Promise<unknown>): Promise<string> {
  const error = await attempt.then(
    () => assert.fail("welcomed"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof LinkError, String(error));
  return `${error.refuse?.code}: ${error.refuse?.message}`;
}

test(
  "a primary that names another number of paths, or another order, is refused and told what to mend",
  DEADLINE,
  async (t) => {
    const addresses = await freeAddresses(2);
    const { world } = await backupLink(t, addresses);
    assert.match(
      await refusal(primaryTo(t, addresses.slice(0, 1))),
      /^other-paths: replication.peer of host-a names 1 addresses, and replication.listen of host-b names 2; name the same paths/,
    );
    assert.match(
      await refusal(primaryTo(t, addresses.toReversed())),
      /^wrong-path: path 0 came in at address 1 of host-b; name the addresses .* in the same order/,
    );
    assert.equal(world.state.phase, "waiting");
  },
);

test(
  "I4: the loss of one of two paths is an alarm at the backup, its return ends it, and status shows both",
  DEADLINE,
  async (t) => {
    const addresses = await freeAddresses(2);
    const { link, alarms, heard } = await backupLink(t, addresses);
    const proxy = await FaultProxy.start({ to: { address: "127.0.0.1", port: addresses[1]!.port } });
    t.after(() => proxy.close());
    assert.deepEqual(link.paths, []);
    const { session, heard: atPrimary } = await primaryTo(t, [addresses[0]!, ...local([proxy.port])]);
    await atPrimary.until(() => session.paths[1]?.up || undefined);
    assert.deepEqual(
      link.paths.map(({ address, up, carries }) => ({ address, up, carries })),
      addresses.map(({ host, port }, path) => ({
        address: `${host}:${port}`,
        up: true,
        carries: path === 0,
      })),
    );
    proxy.pause();
    const down = await heard.until(() => alarms[0]);
    assert.deepEqual([down.raised, down.path], [true, 2]);
    assert.match(down.text, /^path 2 of 2 \(127\.0\.0\.1:\d+\) is lost: .* the VM stays protected$/);
    proxy.resume();
    const up = await heard.until(() => alarms[1]);
    assert.deepEqual([up.raised, up.path], [false, 2]);
  },
);

test(
  "I3: who wants to mend a path of a session that is over is told so, or of the takeover",
  DEADLINE,
  async (t) => {
    const [address] = await freeAddresses(1);
    const { world } = await backupLink(t, [address!]);
    const answerTo = async (): Promise<ReplicationMessage | undefined> => {
      const heard: ReplicationMessage[] = [];
      const onMessage = (message: ReplicationMessage) => heard.push(message);
      const parser = new ReplicationParser({ receiver: "primary", vmId: IDS.vmId, onMessage });
      const socket = connectTcp(address!.port, "127.0.0.1");
      t.after(() => socket.destroy());
      socket.write(wire([{ frame: encodeJoin(IDS, { session: SESSION, path: 0 }) }]));
      for await (const chunk of socket) parser.push(chunk as Buffer);
      return heard[0];
    };
    const refused = await answerTo();
    assert.ok(refused?.type === "refuse");
    assert.equal(refused.refuse.code, "no-session");
    world.state = { phase: "running", generation: 8 };
    const told = await answerTo();
    assert.deepEqual([told?.type, told?.generation, told?.epoch], ["takeover", 8, 40]);
  },
);

test("what is told of a path is told once, and remembered from one session to the next", () => {
  const events: string[] = [];
  const log = { warn: (text: string) => events.push(text), info: (text: string) => events.push(text) };
  const control = { publish: () => events.push("event") };
  const watch = new PathWatch({ log, control } as never, local([7000, 7001]));
  watch.told({ path: 1, up: true, reason: "there" });
  assert.deepEqual(events, []);
  watch.told({ path: 1, up: false, reason: "silent" });
  assert.equal(events.splice(0).length, 2);
  watch.heard({
    paths: [
      { path: 0, up: true },
      { path: 1, up: false },
    ],
  } as unknown as Session);
  assert.deepEqual(events, []);
  watch.told({ path: 1, up: true, reason: "there" });
  watch.told({ path: 1, up: true, reason: "there" });
  assert.equal(events.length, 2);
});
