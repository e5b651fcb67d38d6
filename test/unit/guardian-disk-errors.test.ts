// What QEMU says of a disk reaches the operator by name, and a VM that had no room goes on when there is some
// (I5).

import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { type TestContext, test } from "node:test";
import type { HeardEvent } from "../../src/guardian/control/events.ts";
import { DiskErrors } from "../../src/guardian/disks/disk-errors.ts";

const NO_SPACE = {
  "node-name": "disk1",
  operation: "write",
  action: "stop",
  nospace: true,
  reason: "No space left on device",
};

/** A QEMU whose second disk has no room; what is told of it. */
function opened(t: TestContext, stands = false) {
  const qemu = new EventEmitter();
  const told = new EventEmitter();
  const host = { free: 4096, stands, conts: 0 };
  const log = { info: () => {}, warn: () => {}, error: () => {} };
  const answer = (command: string): unknown => {
    switch (command) {
      case "query-status":
        return { status: host.stands ? "io-error" : "running" };
      case "query-block":
        return [
          { qdev: "/machine/peripheral/vdisk0/virtio-backend", "io-status": "ok" },
          { qdev: "/machine/peripheral/vdisk1/virtio-backend", "io-status": "nospace" },
        ];
      case "query-named-block-nodes":
        return [{ "node-name": "#block089", file: "/images/data.raw" }];
      default:
        assert.equal(command, "cont");
        host.conts++;
        host.stands = host.free < 1 << 20;
        qemu.emit(host.stands ? "BLOCK_IO_ERROR" : "RESUME", NO_SPACE);
        return {};
    }
  };
  new DiskErrors({
    log,
    control: {
      publish: ({ kind, level, raised, text = "" }: HeardEvent) =>
        void told.emit(
          kind === "report" ? `report ${String(level)}` : raised === true ? "raised" : "lowered",
          text,
        ),
    },
    qmp: {
      on: (event, listener) => qemu.on(event, listener),
      execute: async <T>(command: string) => answer(command) as T,
    },
    disks: [{ image: "/images/root.raw" }, { image: "/images/data.raw" }],
    standsStill: () => host.stands,
    freeBytes: () => Promise.resolve(host.free),
    firstMs: 5,
  });
  t.after(() => qemu.emit("closed"));
  const next = async (what: string) => {
    const [text] = (await once(told, what, { signal: AbortSignal.timeout(10_000) })) as [string];
    return text;
  };
  return { host, next, qemu, told };
}

test("I5: a VM whose image has no room is an alarm with disk, reason and free bytes; it goes on when there is room", async (t) => {
  const { host, next, qemu } = opened(t);
  const raised = next("raised");
  host.stands = true;
  // A guest has several requests under way.
  for (let n = 0; n < 3; n++) qemu.emit("BLOCK_IO_ERROR", { ...NO_SPACE, "node-name": "#block089" });
  assert.match(await raised, /stands still.*write.*data\.raw.*no space left.*0\.0 MiB left/);
  assert.equal(host.conts, 0, "without room it is not let go");
  const lowered = next("lowered");
  host.free = 8 << 20;
  assert.match(await lowered, /runs on/);
  assert.equal(host.conts, 1);
  assert.equal(host.stands, false);
});

test("I5: room that is gone again at once is waited for again, in one alarm", async (t) => {
  const { host, next, qemu, told } = opened(t);
  let alarms = 0;
  told.on("raised", () => alarms++);
  host.stands = true;
  const raised = next("raised");
  qemu.emit("BLOCK_IO_ERROR", { ...NO_SPACE, nospace: false, reason: "Input/output error" });
  await raised;
  const lowered = next("lowered");
  qemu.once("BLOCK_IO_ERROR", () => {
    host.free = 8 << 20;
  });
  await lowered;
  assert.equal(alarms, 1);
  assert.ok(host.conts >= 2);
});

test("an error that only the guest is told of reaches the operator by name, once a minute", async (t) => {
  const { host, qemu, told } = opened(t);
  const reports: string[] = [];
  told.on("report error", (text: string) => reports.push(text));
  const read = {
    "qom-path": "/machine/peripheral/vdisk0/virtio-backend",
    operation: "read",
    action: "report",
  };
  for (let n = 0; n < 5; n++) qemu.emit("BLOCK_IO_ERROR", { ...read, reason: "Input/output error" });
  assert.equal(reports.length, 1);
  assert.match(
    reports[0]!,
    /read of the VM's to \/images\/root\.raw has failed: Input\/output error.*guest is told/,
  );
  assert.equal(host.conts, 0);
});

test("I5: a VM that had no room before anybody listened, as one that was just taken over, is found and goes on", async (t) => {
  const { host, next } = opened(t, true);
  assert.match(await next("raised"), /stands still.*data\.raw.*no space left/);
  const lowered = next("lowered");
  host.free = 8 << 20;
  await lowered;
  assert.equal(host.conts, 1);
});

test("a VM that its operator lets run on over a full disk is not called still any more", async (t) => {
  const { host, next, qemu } = opened(t);
  const raised = next("raised");
  host.stands = true;
  qemu.emit("BLOCK_IO_ERROR", NO_SPACE);
  await raised;
  const lowered = next("lowered");
  host.stands = false;
  qemu.emit("RESUME");
  await lowered;
  assert.equal(host.conts, 0);
});

test("a quota that is used up is a broken disk to QEMU: the guest has its error, and its operator the remedy", async (t) => {
  const { next, qemu } = opened(t);
  const said = next("report error");
  const full = { ...NO_SPACE, action: "report", nospace: false, reason: "Disk quota exceeded" };
  qemu.emit("BLOCK_IO_ERROR", full);
  assert.match(await said, /data\.raw has failed: Disk quota exceeded.*I\/O error; raise the quota there/);
});
