/**
 * `npm run rolling-upgrade`: QEMU is upgraded under a running VM, host by host, by planned switchovers: 7.2 →
 * 10.0 → 11.1, with the machine type of 7.2. One client counts all the while. Each host's programs and
 * libraries (/usr) are those of a root of `npm run platforms`, which must have been set up.
 *
 * Ends with status 1 if the client lost anything, RAM or disk differed, or a step was refused.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { otherHost } from "../src/lab/configuration.ts";
import { longestGap } from "../src/lab/gap-watch.ts";
import { Lab, processRuns } from "../src/lab/lab.ts";
import { lastWords } from "../src/lab/last-words.ts";
import type { HostName } from "../src/lab/namespaces.ts";
import { rootsDirectory } from "./platforms/roots.ts";

const MACHINE = "pc-i440fx-7.2";
const GRACE_MS = 60_000;
const ANSWERS = 20;
const steps = ["debian-12", "debian-13", "debian-13-backports"];

for (const name of steps)
  if (!existsSync(join(rootsDirectory, name, "usr/bin/qemu-system-x86_64")))
    fail(`${name} is not set up: npm run platforms -- --platform ${name} --cell set-up`);

/** The system that each host has now. */
const systems: Record<HostName, string> = { a: steps[0]!, b: steps[1]! };
const script = 'mount --bind "$1/usr" /usr && shift && exec "$@"';
const lab = await Lab.create({
  machine: MACHINE,
  disks: [{ mebibytes: 64, use: "data" }],
  // How long a failure takes to be noticed is not the question here.
  detectionMs: 2000,
  guardianWords: (host) => [
    ...["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"],
    join(rootsDirectory, systems[host]),
  ],
  onEvent: (host, { text }) => {
    if (text !== undefined) console.log(`    ${host}: ${text}`);
  },
});
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => void lab.destroy().finally(() => process.exit(130)));
try {
  await lab.start();
  const client = lab.client();
  await client.answers(ANSWERS, GRACE_MS);
  for (let step = 1; step < steps.length; step++) {
    const from = await versionOf(lab.owner);
    if (step > 1) await upgrade(otherHost(lab.owner), steps[step]!);
    await lab.protectAgain();
    await compare();
    const { gapMs } = await longestGap(client, async () => {
      await lab.switchover();
      await client.answers(ANSWERS, GRACE_MS);
    });
    console.log(`QEMU ${from} → ${await versionOf(lab.owner)}: the client waited ${gapMs.toFixed(0)} ms`);
  }
  // Both hosts have the newest in the end, and the VM is as safe as before.
  await upgrade(otherHost(lab.owner), steps.at(-1)!);
  await lab.protectAgain();
  await compare();
  await lab.kill("power");
  await lab.failedOver();
  await client.answers(ANSWERS, GRACE_MS);
  const { acked, connections, lost, repeated, resets, wentBack } = await client.finish();
  console.log(
    `then a power failure: the VM runs on host ${lab.owner}, QEMU ${await versionOf(lab.owner)}\n` +
      `client: ${connections} connection, ${resets} resets, ${acked} answers, ${lost} lost, ${wentBack} went back, ${repeated} repeated`,
  );
  process.exitCode = lost + wentBack + repeated + resets + (connections - 1) === 0 ? 0 : 1;
} catch (error) {
  console.error(await lastWords(lab));
  throw error;
} finally {
  await lab.destroy();
}

/** The host's guardian ends, its system is exchanged, and it comes back. */
async function upgrade(host: HostName, system: string): Promise<void> {
  // A host that has just given its VM away starts a standby first.
  const { control } = lab.guardianOf(host);
  for (;;) {
    const status = await control.status();
    if (status.role === "backup" && processRuns(status.qemuPid)) break;
    await new Promise((again) => setTimeout(again, 50));
  }
  await lab.kill("processes", host);
  systems[host] = system;
  await lab.returnHost();
}

async function versionOf(host: HostName): Promise<string> {
  return (await lab.guardianOf(host).control.statusInRole()).qemuVersion;
}

async function compare(): Promise<void> {
  const { differing, disks } = await lab.ramCheck(0, { disks: true });
  const blocks = disks.reduce((sum, { offsets }) => sum + offsets.length, 0);
  if (differing.length + blocks > 0) throw new Error(`${differing.length} pages and ${blocks} blocks differ`);
}

function fail(why: string): never {
  console.error(why);
  process.exit(2);
}
