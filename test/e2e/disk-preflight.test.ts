/** Preflight of disks on file systems that it must warn of, each mounted in a namespace of its own. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import type { Finding } from "../../src/hypervisor/qemu/traps.ts";
import type { DiskSpec } from "../../src/hypervisor/vm-spec.ts";

const run = promisify(execFile);
const diskPreflight = join(import.meta.dirname, "../../src/hypervisor/qemu/disk-preflight.ts");

/**
 * Runs code that gives findings, in a process of its own, in a new mount namespace, after the shell commands
 * in `before`.
 */
async function lookFrom(before: string, code: string): Promise<string[]> {
  const program = `import { diskPreflight, diskRoomFindings } from ${JSON.stringify(diskPreflight)};
    console.log(JSON.stringify(await (async () => { ${code} })()));`;
  const node = [process.execPath, "--input-type=module", "-e", program];
  const { stdout } = await run("unshare", ["-m", "sh", "-ec", `${before}; exec "$@"`, "sh", ...node]);
  return (JSON.parse(stdout) as Finding[]).map(({ severity, code }) => `${severity} ${code}`);
}

function disk(image: string): DiskSpec {
  return { image, format: "raw", bus: "virtio-blk", storage: "replicated", durability: "strict" };
}

const images = "truncate -s 64M /mnt/a /mnt/b";
for (const [what, before, found] of [
  ["tmpfs, which takes space back", `mount -t tmpfs none /mnt; ${images}`, []],
  ["ramfs, which does not", `mount -t ramfs none /mnt; ${images}`, ["warning no-holes"]],
  [
    "one that is read-only",
    `mount -t tmpfs none /mnt; ${images}; mount -o remount,ro /mnt`,
    ["error image-read-only"],
  ],
] as const)
  test(`an image on a file system: ${what}`, async () => {
    const code = `return (await diskPreflight(${JSON.stringify([disk("/mnt/a")])}, { stateDirectory: "/" })).findings;`;
    assert.deepEqual(await lookFrom(before, code), found);
  });

for (const [what, sizeMiB, written, found] of [
  ["room for both to grow", 129, ":", []],
  ["room for one alone", 100, ":", ["warning disk-room"]],
  ["room for both as one is there already", 129, "head -c 64M /dev/zero > /mnt/a", []],
  ["hardly any room", 20, "head -c 19M /dev/zero > /mnt/c", ["error disk-full"]],
  ["hardly any room, and both are there", 128, "head -c 64M /dev/zero | tee /mnt/a > /mnt/b", []],
] as const)
  test(`two sparse images on one file system with ${what}`, async () => {
    const disks = JSON.stringify([disk("/mnt/a"), disk("/mnt/b")]);
    const code = `const { images } = await diskPreflight(${disks}, { stateDirectory: "/" });
      return await diskRoomFindings(${disks}, images);`;
    const mount = `mount -t tmpfs -o size=${sizeMiB}m none /mnt`;
    assert.deepEqual(await lookFrom(`${mount}; ${images}; ${written}`, code), found);
  });
