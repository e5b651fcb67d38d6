// The lab's faults must be real and exact, or every failover test proves less than it says.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import {
  createNetwork,
  destroyStale,
  type LabNetwork,
  labAddresses,
  type NamespaceRole,
} from "../../src/lab/namespaces.ts";

const run = promisify(execFile);
const mayNot = process.geteuid?.() === 0 ? false : "making network namespaces needs root";
const options = { skip: mayNot, timeout: 30_000 };

async function lab(t: TestContext, lans: 1 | 2 = 1, links: 1 | 2 = 1): Promise<LabNetwork> {
  const network = await createNetwork({ lans, links });
  t.after(() => network.destroy());
  return network;
}

async function ping(network: LabNetwork, from: NamespaceRole, address: string): Promise<boolean> {
  const [program, ...words] = network.exec(from);
  const one = run(program!, [...words, "busybox", "ping", "-c", "1", "-W", "1", address]);
  return one.then(
    () => true,
    () => false,
  );
}

/**
 * Asks more than once: the first ping after a silence may be dropped with the neighbour's address still
 * unknown.
 */
async function reaches(network: LabNetwork, from: NamespaceRole, address: string): Promise<boolean> {
  for (let attempt = 0; attempt < 5; attempt += 1) {
    if (await ping(network, from, address)) return true;
  }
  return false;
}

/** No answer for a second, where a working cable answers in one millisecond. */
async function isSilent(network: LabNetwork, from: NamespaceRole, address: string): Promise<boolean> {
  return !(await ping(network, from, address));
}

/** Gives the tap's bridge on a host an address, so that it can stand for a guest. */
async function standInGuest(
  network: LabNetwork,
  host: "a" | "b",
  lan: number,
  address: string,
): Promise<void> {
  const [program, ...words] = network.exec(host);
  await run(program!, [...words, "ip", "addr", "add", `${address}/24`, "dev", `br${lan}`]);
}

async function present(network: LabNetwork): Promise<string[]> {
  const names = await readdir("/run/netns");
  return names.filter((name) => Object.values(network.namespaces).includes(name));
}

test("all cables work as soon as the network is there, on both LANs", options, async (t) => {
  const network = await lab(t, 2);
  assert.ok(await reaches(network, "a", labAddresses.replication.b));
  for (const lan of [0, 1]) {
    await standInGuest(network, "a", lan, `10.77.${lan}.10`);
    await standInGuest(network, "b", lan, `10.77.${lan}.11`);
    assert.ok(await reaches(network, "client", `10.77.${lan}.10`), `LAN ${lan} of a`);
    assert.ok(await reaches(network, "client", `10.77.${lan}.11`), `LAN ${lan} of b`);
  }
});

test("each host has a tap on each LAN, a port of its bridge, up", options, async (t) => {
  const network = await lab(t, 2);
  for (const host of ["a", "b"] as const) {
    const links = await network.links(host);
    for (const lan of [0, 1]) {
      const tap = links.find((link) => link.ifname === `tap${lan}`);
      assert.equal(tap?.master, `br${lan}`);
      assert.ok(tap?.flags.includes("UP"));
    }
  }
});

test(
  "a host that is cut off is silent on every cable, the other host is not, and it comes back",
  options,
  async (t) => {
    const network = await lab(t);
    await standInGuest(network, "a", 0, "10.77.0.10");
    await standInGuest(network, "b", 0, "10.77.0.11");
    await network.cutHost("a");
    assert.ok(await isSilent(network, "client", "10.77.0.10"));
    assert.ok(await isSilent(network, "b", labAddresses.replication.a));
    assert.ok(await reaches(network, "client", "10.77.0.11"));
    // Silence, not a dead port: the survivor's link is up.
    const repl = (await network.links("b")).find((link) => link.ifname === "repl");
    assert.equal(repl?.operstate, "UP");
    await network.restoreHost("a");
    assert.ok(await reaches(network, "client", "10.77.0.10"));
    assert.ok(await reaches(network, "b", labAddresses.replication.a));
  },
);

test("replication and LAN are cut one without the other", options, async (t) => {
  const network = await lab(t);
  await standInGuest(network, "a", 0, "10.77.0.10");
  await network.cut("link");
  assert.ok(await isSilent(network, "a", labAddresses.replication.b));
  assert.ok(await reaches(network, "client", "10.77.0.10"));
  await network.restore("link");
  assert.ok(await reaches(network, "a", labAddresses.replication.b));
  await network.cutLan("a");
  assert.ok(await reaches(network, "a", labAddresses.replication.b));
  assert.ok(await isSilent(network, "client", "10.77.0.10"));
  await network.restoreLan("a");
  assert.ok(await reaches(network, "client", "10.77.0.10"));
});

test("of two links between the hosts each is cut alone, or both are", options, async (t) => {
  const network = await lab(t, 1, 2);
  const [first, second] = [labAddresses.replication.b, labAddresses.secondReplication.b];
  await network.cut("link1");
  assert.ok(await isSilent(network, "a", first));
  assert.ok(await reaches(network, "a", second));
  await network.cut("link2", "b");
  assert.ok(await isSilent(network, "a", second));
  await network.restore("link");
  assert.ok(await reaches(network, "a", first));
  assert.ok(await reaches(network, "a", second));
  await network.cut("link");
  assert.ok(await isSilent(network, "a", first));
  assert.ok(await isSilent(network, "a", second));
});

test("the witness is a host of its own, and each host is cut off from it alone", options, async (t) => {
  const network = await lab(t);
  const { witness } = labAddresses.witness;
  for (const host of ["a", "b"] as const) assert.ok(await reaches(network, host, witness));
  await network.cut("witness", "a");
  assert.ok(await isSilent(network, "a", witness));
  assert.ok(await reaches(network, "b", witness));
  assert.ok(await reaches(network, "a", labAddresses.replication.b));
  await network.restore("witness", "a");
  await network.cut("link", "a");
  assert.ok(await reaches(network, "a", witness));
  assert.ok(await isSilent(network, "b", labAddresses.replication.a));
  await network.cutHost("b");
  assert.ok(await isSilent(network, "b", witness));
});

test(
  "a host that lost power comes back with all ports, and bridges that have learnt nothing",
  options,
  async (t) => {
    const network = await lab(t, 2);
    const [program, ...words] = network.exec("b");
    const inHost = async (...command: string[]) => (await run(program!, [...words, ...command])).stdout;
    const learnt = async () => await inHost("bridge", "fdb", "show");
    // As a guardian leaves them that was a standby. (Static, for nobody has this tap open.)
    await inHost("ip", "link", "set", "tap1", "nomaster");
    await inHost("bridge", "fdb", "replace", "52:54:00:72:65:00", "dev", "tap0", "master", "static");
    await standInGuest(network, "b", 0, "10.77.0.12");
    assert.ok(await reaches(network, "client", "10.77.0.12"));
    assert.match(await learnt(), /52:54:00:72:65:00 dev tap0/);

    await network.cutHost("b");
    await network.restartHost("b");
    assert.doesNotMatch(await learnt(), /52:54:00:72:65:00/);
    const ports = (await network.links("b")).filter(({ master }) => master !== undefined);
    assert.deepEqual(ports.map(({ ifname, master }) => `${ifname} ${master}`).sort(), [
      "tap0 br0",
      "tap1 br1",
      "up0 br0",
      "up1 br1",
    ]);
    assert.ok(await reaches(network, "client", "10.77.0.12"));
  },
);

test("several labs at once do not meet", options, async (t) => {
  const one = await lab(t);
  const other = await lab(t);
  await standInGuest(one, "a", 0, "10.77.0.10");
  assert.ok(await reaches(one, "client", "10.77.0.10"));
  assert.ok(await isSilent(other, "client", "10.77.0.10"));
});

test("destroy removes all, and may be called again", options, async (t) => {
  const network = await lab(t);
  assert.equal((await present(network)).length, 5);
  await network.destroy();
  assert.deepEqual(await present(network), []);
  await network.destroy();
});

test("a network that cannot be made whole leaves nothing behind", options, async (t) => {
  const network = await lab(t);
  // The name of its second namespace is taken, so the first one is made and must go again.
  const prefix = network.namespaces.a.replace(/-a$/, "-taken");
  await run("ip", ["netns", "add", `${prefix}-b`]);
  t.after(() => run("ip", ["netns", "delete", `${prefix}-b`]).catch(() => {}));
  await assert.rejects(createNetwork({ prefix, lans: 1 }), /File exists/);
  assert.deepEqual(
    (await readdir("/run/netns")).filter((name) => name.startsWith(prefix) && name !== `${prefix}-b`),
    [],
  );
});

test("what a dead lab left is removed, what a living one has is not", options, async (t) => {
  const living = await lab(t);
  const dead = spawn("true");
  await once(dead, "exit");
  const left = `remus-${dead.pid}-1-client`;
  await run("ip", ["netns", "add", left]);
  t.after(() => run("ip", ["netns", "delete", left]).catch(() => {}));
  assert.ok((await destroyStale()).includes(left));
  assert.ok(!(await readdir("/run/netns")).includes(left));
  assert.equal((await present(living)).length, 5);
});
