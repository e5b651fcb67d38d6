import assert from "node:assert/strict";
import { test } from "node:test";
import { ChangeWatch } from "../../src/guardian/watch/change-watch.ts";

interface Machine {
  peripheral: { name: string; type: string }[];
  anon: { name: string; type: string }[];
  drives: object[];
  network: string;
}

const disk = (bytes: number) => ({
  device: "",
  qdev: "/machine/peripheral/blk0/virtio-backend",
  inserted: { ro: false, image: { "virtual-size": bytes } },
});
const NETWORK = "nic0: index=0,type=nic,model=virtio-net-pci\n \\ net0: index=0,type=tap,ifname=tap0\n";
const machine: Machine = {
  peripheral: [
    { name: "type", type: "string" },
    { name: "nic0", type: "child<virtio-net-pci>" },
  ],
  anon: [{ name: "device[0]", type: "child<virtio-rng-pci>" }],
  drives: [disk(1 << 20), { device: "", qdev: "cdrom0" }],
  network: NETWORK,
};

/** A watch over a QEMU that answers for `host.machine`, and what it found. */
async function watched() {
  const host = { machine, isProtected: true };
  const found: string[] = [];
  const events = new Map<string, () => void>();
  const answers: Record<string, (args: { path?: string }) => unknown> = {
    "qom-list": ({ path }) => (path === "/machine/peripheral" ? host.machine.peripheral : host.machine.anon),
    "query-block": () => host.machine.drives,
    "human-monitor-command": () => host.machine.network,
  };
  const qmp = {
    execute: async (command: string, args: object = {}) => answers[command]!(args),
    on: (event: string, listener: () => void) => {
      events.set(event, listener);
      return () => {};
    },
  };
  const watch = new ChangeWatch({
    qmp: qmp as unknown as ConstructorParameters<typeof ChangeWatch>[0]["qmp"],
    cards: 1,
    log: { warn: (text) => void found.push(text) },
    isProtected: () => host.isProtected,
    onChanged: (what) => void found.push(what),
  });
  await watch.describe(async () => ({}));
  return { host, found, events, watch };
}

for (const [what, change, says] of [
  ["a device that is unplugged", { peripheral: [] }, /^device nic0 \(virtio-net-pci\) was unplugged/],
  ["a device without an id that is unplugged", { anon: [] }, /^device device\[0\] \(virtio-rng-pci\)/],
  [
    "a device that is plugged in",
    { peripheral: [...machine.peripheral, { name: "dimm1", type: "child<pc-dimm>" }] },
    /^device dimm1 \(pc-dimm\) was plugged in, and the standby has not got it$/,
  ],
  [
    "a disk that is resized",
    { drives: [disk(2 << 20), machine.drives[1]!] },
    /blk0.* was "1048576 bytes" and is "2097152 bytes" now/,
  ],
  [
    "a disc that is put in",
    {
      drives: [
        machine.drives[0]!,
        { device: "", qdev: "cdrom0", inserted: { ro: true, image: { "virtual-size": 2048 } } },
      ],
    },
    /^drive cdrom0 was "no medium" and is "2048 bytes, read-only" now/,
  ],
  [
    "a network backend that is added",
    { network: `${NETWORK}extra: index=0,type=user,net=10.0.2.0\n` },
    /Network backend extra \(user\) is none of vm\.nics/,
  ],
  [
    "a filter of another's",
    { network: `${NETWORK}filters:\n  - remus-sink-0: type=filter-redirector\n  - spy: type=filter-dump\n` },
    /Network filter spy \(filter-dump\) is none of Remus's/,
  ],
] as const)
  test(`${what} while the VM is protected is named, once (I5)`, async () => {
    const { events, found, host, watch } = await watched();
    await watch.look();
    assert.deepEqual(found, []);
    host.machine = { ...machine, ...change } as Machine;
    await watch.look();
    await watch.look();
    assert.equal(found.length, 1);
    assert.match(found[0]!, says);
    events.get("closed")!();
  });

test("what Remus puts into QEMU for a protection is no change, nor is what changed before the machine was described anew", async () => {
  const { events, found, host, watch } = await watched();
  host.machine = { ...machine, network: `${NETWORK}filters:\n  - remus-sink-0: type=filter-redirector\n` };
  await watch.look();
  host.machine = { ...machine, anon: [] };
  await watch.describe(async () => ({}));
  await watch.look();
  assert.deepEqual(found, []);
  events.get("closed")!();
});

test("without a protection nothing is asked; an event has the VM looked at, one look at a time", async () => {
  const { events, found, host, watch } = await watched();
  host.isProtected = false;
  host.machine = { ...machine, anon: [] };
  await watch.look();
  assert.deepEqual(found, []);
  host.isProtected = true;
  const looked = watch.look();
  events.get("DEVICE_DELETED")!();
  await looked;
  assert.equal(found.length, 1);
  events.get("closed")!();
});
