// What rtnetlink is asked for is what iproute2 shows afterwards. In a network namespace that ends with its
// process.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";

const run = promisify(execFile);
const mayNot = process.geteuid?.() === 0 ? false : "making network namespaces needs root";
const MAC = "52:54:00:72:65:01";
const at = (path: string) => JSON.stringify(new URL(`../../src/os/${path}`, import.meta.url).href);

/**
 * Runs `calls` in a namespace with a bridge, br0, and its port port0. Returns what it and the shell's `look`
 * print.
 */
async function beside(calls: string, look: string): Promise<string> {
  const program = `import { forgetBehind, learnBehind } from ${at("bridge-port.ts")};
    import { networkLink, portsOf, setUp } from ${at("network-link.ts")}; ${calls}`;
  const devices =
    "ip link add br0 up type bridge && ip link add port0 master br0 type veth peer name far0 && ip link set far0 up && ip link set port0 up " +
    "&& ip tuntap add tap0 mode tap user 65534 group 1 && ip tuntap add tap1 mode tap multi_queue && ip link add dummy0 type veth peer name dummy1";
  const words = ["--net", "sh", "-c", `${devices} && "$0" --input-type=module -e "$1" && ${look}`];
  const { stdout } = await run("unshare", [...words, process.execPath, program]);
  return stdout;
}

test("the bridge knows what is behind a port, once, and forgets it when it is told", {
  skip: mayNot,
}, async () => {
  const calls = `learnBehind("port0", "${MAC}"); learnBehind("port0", "${MAC}");`;
  const look = "bridge -j fdb show br br0 dev port0";
  const entries = (
    JSON.parse(await beside(calls, look)) as {
      mac: string;
      master?: string;
      state?: string;
    }[]
  ).filter(({ mac }) => mac === MAC);
  assert.equal(entries.length, 1);
  // It may be learnt anew elsewhere, and ages: neither permanent nor static.
  assert.equal(entries[0]!.master, "br0");
  assert.ok(!["permanent", "static"].includes(entries[0]!.state ?? ""));
  const forget = `${calls} forgetBehind("port0", "${MAC}"); forgetBehind("port0", "${MAC}"); forgetBehind("dummy0", "${MAC}");`;
  assert.doesNotMatch(await beside(forget, look), new RegExp(MAC));
});

test("an administrator's static entry stays what it is", { skip: mayNot }, async () => {
  const set = `execFileSync("bridge", "fdb add ${MAC} dev port0 master static".split(" "));`;
  const calls = `import { execFileSync } from "node:child_process"; ${set}
    learnBehind("port0", "${MAC}"); forgetBehind("port0", "${MAC}");`;
  const said = await beside(calls, "bridge -j fdb show br br0 dev port0");
  const [entry] = (JSON.parse(said) as { mac: string; state?: string }[]).filter(({ mac }) => mac === MAC);
  assert.equal(entry?.state, "static");
});

test("a device is described as iproute2 does it, and set up", { skip: mayNot }, async () => {
  const calls = `
    const br0 = networkLink("br0");
    console.log(JSON.stringify([
      networkLink("tap0").tap, networkLink("tap1").tap, networkLink("port0").tap, networkLink("tap0").up,
      networkLink("port0").master === br0.index, networkLink(br0.index).name, br0.kind, networkLink("port0").mtu,
      networkLink("port0").portState, networkLink("tap0").portState ?? null, portsOf(br0.index).map(({ name }) => name),
      networkLink("not-there") ?? null, networkLink(4711) ?? null,
    ]));
    setUp(networkLink("tap0").index, "tap0");`;
  const [described, shown] = (await beside(calls, "ip -j link show tap0")).trim().split("\n");
  assert.deepEqual(JSON.parse(described!), [
    ...[{ owner: 65534, group: 1, multiQueue: false }, { multiQueue: true }, null, false],
    ...[true, "br0", "bridge", 1500],
    ...["forwarding", null, ["port0"]],
    ...[null, null],
  ]);
  const [{ flags }] = JSON.parse(shown!) as [{ flags: string[] }];
  assert.ok(flags.includes("UP"));
});

test("what cannot be done is said by name", { skip: mayNot }, async () => {
  const caught = (call: string) =>
    beside(`try { ${call} } catch (error) { console.log(error.message) }`, "true");
  assert.match(await caught(`learnBehind("port1", "${MAC}")`), /^there is no network device "port1"$/m);
  assert.match(
    await caught(`learnBehind("dummy0", "${MAC}")`),
    /^telling the bridge that .* is behind dummy0 failed: E[A-Z]+$/m,
  );
});
