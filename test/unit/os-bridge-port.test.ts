// What rtnetlink is asked for is what iproute2 shows afterwards. In a network namespace that ends with its process.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

const run = promisify(execFile);
const mayNot = process.geteuid?.() === 0 ? false : "making network namespaces needs root";
const MAC = "52:54:00:72:65:01";
const module = JSON.stringify(join(import.meta.dirname, "../../src/os/bridge-port.ts"));

/** Runs `calls` in a namespace with a bridge, br0, and a device beside it, port0. Returns what the shell's `look` prints. */
async function beside(calls: string, look: string): Promise<string> {
  const program = `import { joinBridge, learnBehind } from ${module}; ${calls}`;
  const devices =
    "ip link add br0 up type bridge && ip link add port0 type veth peer name far0 && ip link set far0 up && ip link set port0 up";
  const words = ["--net", "sh", "-c", `${devices} && "$0" --input-type=module -e "$1" && ${look}`];
  const { stdout } = await run("unshare", [...words, process.execPath, program]);
  return stdout;
}

test("a device becomes a port, and the bridge knows what is behind it", { skip: mayNot }, async () => {
  const calls = `joinBridge("port0", "br0"); learnBehind("port0", "${MAC}"); learnBehind("port0", "${MAC}");`;
  const stdout = await beside(calls, "ip -j link show port0; bridge -j fdb show br br0 dev port0");
  const [link, fdb] = stdout.trim().split("\n");
  const [{ master }] = JSON.parse(link!) as [{ master?: string }];
  assert.equal(master, "br0");
  const entries = (
    JSON.parse(fdb!) as { mac: string; master?: string; state?: string; flags: string[] }[]
  ).filter(({ mac }) => mac === MAC);
  assert.equal(entries.length, 1, stdout);
  // It may be learnt anew elsewhere, and ages: neither permanent nor static.
  assert.equal(entries[0]!.master, "br0");
  assert.ok(!["permanent", "static"].includes(entries[0]!.state ?? ""), stdout);
});

test("what cannot be done is said by name", { skip: mayNot }, async () => {
  const caught = (call: string) =>
    beside(`try { ${call} } catch (error) { console.log(error.message) }`, "true");
  assert.match(await caught('joinBridge("port1", "br0")'), /^there is no network device "port1"$/m);
  assert.match(await caught('joinBridge("port0", "lo")'), /^putting port0 into lo failed: E[A-Z]+$/m);
  assert.match(
    await caught(`learnBehind("port0", "${MAC}")`),
    /^telling the bridge that .* is behind port0 failed: E[A-Z]+$/m,
  );
});
