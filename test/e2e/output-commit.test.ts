/**
 * I1: no byte of guest output leaves the primary host before its checkpoint is acknowledged, and none leaks
 * when the guardian dies.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import type { ClientProcess } from "../../src/lab/client-process.ts";
import { guestAddresses, type Lab, type LabOptions, processRuns } from "../../src/lab/lab.ts";
import type { ProxyProcess } from "../../src/lab/proxy-process.ts";
import { assertUnharmed, eventually, GRACE_MS, makeLab, roleOf } from "./lab-session.ts";

const run = promisify(execFile);
const PROXY = "127.0.0.1:7001";
const BACKUP = "10.78.0.2:7000";

/** A lab whose link goes through a proxy of ours; nothing is protected yet. */
async function proxiedLab(
  t: TestContext,
  options: LabOptions,
): Promise<{ lab: Lab; client: ClientProcess; proxy: ProxyProcess }> {
  const lab = await makeLab(t, { ...options, replicationPeer: PROXY });
  const proxy = await lab.proxy(PROXY, BACKUP);
  await lab.start();
  const client = lab.client();
  await client.answers(20, GRACE_MS);
  return { lab, client, proxy };
}

/**
 * Round trips of `count` pings from the client, in ms. Fails when one is not answered, the last within
 * `seconds`.
 */
async function ping(lab: Lab, host: string, count: number, seconds = 5): Promise<number[]> {
  const [program, ...prefix] = lab.network.exec("client");
  const options = ["-c", String(count), "-i", "0.2", "-W", String(seconds)];
  const words = ["busybox", host.includes(":") ? "ping6" : "ping", ...options, host];
  const { stdout } = await run(program!, [...prefix, ...words]);
  const times = [...stdout.matchAll(/time=([\d.]+) ms/g)].map((match) => Number(match[1]));
  assert.equal(times.length, count, stdout);
  return times;
}

/** Frames that the guest on host A has sent onto its tap, ever. */
async function framesFromGuest(lab: Lab): Promise<number> {
  const { stdout } = await run("ip", ["-n", lab.network.namespaces.a, "-s", "-j", "link", "show", "tap0"]);
  return (JSON.parse(stdout) as { stats64: { rx: { packets: number } } }[])[0]!.stats64.rx.packets;
}

test("acks delayed by 300 ms: no answer of any kind reaches the client earlier", async (t) => {
  const delayMs = 300;
  const { lab, proxy } = await proxiedLab(t, {});
  const host = guestAddresses[0];
  const free = await ping(lab, host.ipv4, 3);
  assert.ok(Math.min(...free) < delayMs, `unprotected, a ping takes ${free} ms`);
  await proxy.tell(`delay ${delayMs} down`);
  await lab.protect();

  const client = lab.client(host.ipv4, "delayed");
  await client.answers(8, GRACE_MS);
  const { latencyMs, ...summary } = await client.finish();
  assert.deepEqual([summary.resets, summary.lost, summary.wentBack], [0, 0, 0]);
  assert.ok(latencyMs.min >= delayMs, `an answer over TCP came after ${latencyMs.min} ms`);

  await run("ip", ["-n", lab.network.namespaces.client, "neigh", "flush", "all"]);
  for (const address of [host.ipv4, host.ipv6]) {
    const [first, ...others] = await ping(lab, address, 3);
    // The first one waits for the guest's answer to ARP or neighbour discovery too, which is held as well.
    assert.ok(first! >= 2 * delayMs, `first ping of ${address} took ${first} ms`);
    for (const time of others) assert.ok(time >= delayMs, `a ping of ${address} took ${time} ms`);
  }
});

test("the guardian alone dies and QEMU lives on: not one frame leaks (fail closed)", async (t) => {
  // A long detection time: acks must be missing for a while, without the primary asking its arbiter.
  const { lab, client, proxy } = await proxiedLab(t, { bindLifetimes: false, detectionMs: 5000 });
  await lab.protect();
  await client.answers(20, GRACE_MS);
  const protectedFrames = await framesFromGuest(lab);
  await client.answers(10, GRACE_MS);
  assert.ok((await framesFromGuest(lab)) > protectedFrames, "the counter counts");

  await proxy.tell("pause down");
  await eventually("output is held", async () => {
    const { heldBytes } = await lab.primary.control.primaryStatus();
    return heldBytes > 0;
  });
  // Acks that were on their way have arrived by the time this much is held: it belongs to a checkpoint that
  // was not acknowledged.
  const qemuPid = await lab.qemuPid("a");
  const before = await framesFromGuest(lab);
  await lab.primary.kill();
  // The client goes on asking (retransmissions), as does ping: the guest has every reason to send.
  const pings = ping(lab, guestAddresses[0].ipv4, 1, 2).catch(() => "no answer");
  await eventually("the backup runs the VM", async () => (await roleOf(lab.backup)) === "primary", 15_000);
  await client.answers(20, GRACE_MS);
  await pings;
  assert.ok(processRuns(qemuPid), "QEMU on A outlived its guardian, or this proves nothing");
  assert.equal(await framesFromGuest(lab), before, "frames left host A without a guardian");
  await assertUnharmed(client);
});

test("a slow link makes epochs longer, not buffers larger (I6)", async (t) => {
  const { lab, client, proxy } = await proxiedLab(t, {});
  await lab.protect();
  await client.answers(20, GRACE_MS);
  await proxy.tell("rate 4000000 up");
  await lab.primary.control.order("reset-statistics");
  await client.answers(8, GRACE_MS);
  const { checkpointsPerSecond, stagingBytes, phase } = await lab.primary.control.primaryStatus();
  assert.equal(phase, "protected");
  assert.ok(checkpointsPerSecond < 30, `${checkpointsPerSecond} checkpoints/s over 4 MB/s`);
  assert.ok(stagingBytes <= 64 << 20, `${stagingBytes} bytes of staging`);
  await assertUnharmed(client);
});
