// What the primary hears of its backup, in the order in which it counts.
import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeAck, encodeTakeover } from "../../src/codec/replication-encode.ts";
import { uuidText } from "../../src/codec/replication-header.ts";
import type { PrimaryEvent } from "../../src/core/primary-protocol.ts";
import { PrimaryLink, type PrimaryLinkOptions } from "../../src/guardian/primary/link.ts";
import { backup } from "./link-samples.ts";
import { IDS } from "./replication-samples.ts";

test("I3: an ack that is read together with TAKEOVER releases nothing, however fresh it looks to this host's clock", async (t) => {
  const b = await backup(t);
  const events: PrimaryEvent[] = [];
  const { promise: over, resolve } = Promise.withResolvers<void>();
  const { promise: up, resolve: isUp } = Promise.withResolvers<void>();
  const config = {
    host: "host-a",
    vm: { uuid: uuidText(IDS.vmId), memoryMiB: 64 },
    replication: { peer: [{ host: "127.0.0.1", port: b.listener.ports[0]! }] },
    timing: { detectionMs: 10_000, heartbeatMs: 25, intervalMs: 25 },
  };
  const log = { info() {}, warn() {}, error() {} };
  const link = new PrimaryLink({
    context: { config, log, control: { publish() {} } },
    machine: async () => ({ machine: "pc" }),
    disks: [],
    state: () => ({ phase: "protected", generation: IDS.generation }),
    feed: (event: PrimaryEvent) => {
      events.push(event);
      if (event.type === "link-up") isUp();
      if (event.type === "takeover" || event.type === "link-lost") resolve();
    },
    onDiskMessage() {},
    onLost() {},
  } as unknown as PrimaryLinkOptions);
  t.after(() => link.close());
  await link.connect();
  await up;
  const [session] = b.sessions;
  // As they lie in the socket of a host that was stopped, and its clock with it.
  session!.send(encodeAck(IDS, 0));
  session!.send(encodeAck(IDS, 1));
  session!.finish(encodeTakeover(IDS, 1), "taken over");
  await over;
  assert.deepEqual(
    events.map(({ type }) => type).filter((type) => type !== "link-lost"),
    ["link-up", "takeover"],
  );
});
