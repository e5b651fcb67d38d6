import assert from "node:assert/strict";
import { test } from "node:test";
import { TapWatch } from "../../src/guardian/watch/tap-watch.ts";
import type { NetworkLink } from "../../src/os/network-link.ts";

const plain = {
  mac: "",
  tap: undefined,
  up: true,
  carrier: true,
  mtu: 1500,
  master: undefined,
  sentFrames: 0n,
};
const tap0: NetworkLink = {
  ...plain,
  ...{ index: 3, name: "tap0", kind: "tun", master: 1, portState: "forwarding" },
};
const br0: NetworkLink = { ...plain, index: 1, name: "br0", kind: "bridge", portState: undefined };
const up0: NetworkLink = {
  ...plain,
  index: 2,
  name: "up0",
  kind: undefined,
  master: 1,
  portState: "forwarding",
};

interface Told {
  readonly about: string;
  readonly raised: boolean;
  readonly text: string;
}

/** A watch over a host with these devices, which may be changed; and what it tells. */
function watched(...links: NetworkLink[]) {
  const told: Told[] = [];
  const log = { info: () => {}, warn: () => {}, error: () => {} };
  const control = { publish: (event: object) => void told.push(event as Told) };
  const host = { links };
  const watch = new TapWatch(["tap0"], { log, control } as ConstructorParameters<typeof TapWatch>[1], {
    link: (device) => host.links.find(({ index, name }) => index === device || name === device),
    ports: (master) => host.links.filter((link) => link.master === master),
  });
  watch.look();
  return { watch, told, host };
}

for (const [what, after, says] of [
  ["is set down", [{ ...tap0, up: false, carrier: false }, br0, up0], /tap0 is down.*ip link set tap0 up$/],
  [
    "leaves its bridge",
    [{ ...tap0, master: undefined, portState: undefined }, br0, up0],
    /is no port of br0 any more.*ip link set tap0 master br0$/,
  ],
  ["loses its bridge", [{ ...tap0, master: undefined, portState: undefined }, up0], /a bridge that is gone/],
  ["gets another MTU", [{ ...tap0, mtu: 1400 }, br0, up0], /MTU of 1400, and had 1500.*mtu 1500/],
  ["is renamed", [{ ...tap0, name: "old0" }, br0, up0], /was renamed to old0.*ip link set old0 name tap0/],
  ["is removed", [br0, up0], /tap0 is gone.*ip tuntap add tap0 mode tap/],
  ["is removed and made again", [{ ...tap0, index: 9 }, br0, up0], /removed and made again/],
  ["has a bridge that is down", [tap0, { ...br0, up: false }, up0], /br0, which is down.*ip link set br0 up/],
  [
    "has an uplink without a carrier",
    [tap0, br0, { ...up0, carrier: false }],
    /alone in br0: no other port of it \(up0\) has a carrier/,
  ],
  [
    "waits for the spanning tree",
    [{ ...tap0, portState: "listening" as const }, br0, up0],
    /spanning tree has the port listening.*twice the forward delay/,
  ],
] as const)
  test(`an alarm names a tap that ${what}, and what to do; it is lowered when all is as before`, () => {
    const { host, told, watch } = watched(tap0, br0, up0);
    assert.equal(told.length, 0);
    host.links = [...after];
    watch.look();
    watch.look();
    assert.equal(told.length, 1);
    assert.equal(told[0]!.about, "tap");
    assert.match(told[0]!.text, says);
    host.links = [tap0, br0, up0];
    watch.look();
    assert.deepEqual(
      told.map(({ raised }) => raised),
      [true, false],
    );
  });

test("a tap that somebody has moved to another bridge is where they want it", () => {
  const br1 = { ...br0, index: 8, name: "br1" };
  const moved = { ...tap0, master: 8 };
  const { host, told, watch } = watched(tap0, br0, up0);
  host.links = [moved, br0, up0, br1];
  watch.look();
  assert.equal(told.length, 0);
  host.links = [{ ...moved, master: undefined }, br0, up0, br1];
  watch.look();
  assert.match(told[0]!.text, /no port of br1 any more/);
});

test("a tap that is in no bridge, or the only port of one, is no fault", () => {
  assert.deepEqual(watched({ ...tap0, master: undefined, portState: undefined }).told, []);
  assert.deepEqual(watched(tap0, br0).told, []);
});

test("a host that routes for its bridge is no cut-off one: taps of VMs that are off are no uplinks", () => {
  const off = { ...tap0, index: 7, name: "tap7", up: false, carrier: false };
  assert.deepEqual(watched(tap0, br0, off).told, []);
  const { host, told, watch } = watched(tap0, br0, off, up0);
  host.links = [tap0, br0, { ...off, up: true, carrier: true }, { ...up0, carrier: false }];
  watch.look();
  assert.equal(told.length, 0, "the VMs of one host still reach each other");
});
