/**
 * Preflight of disks on plain files. What needs file systems and devices of its own is in
 * test/e2e/preflight.test.ts.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { diskPreflight, diskRoomFindings } from "../../src/hypervisor/qemu/disk-preflight.ts";
import type { Finding } from "../../src/hypervisor/qemu/traps.ts";
import type { DiskSpec } from "../../src/hypervisor/vm-spec.ts";

/**
 * A folder on a disk with a few images of 1 MiB: `one`, `two`, and `link` and `same`, which are `one`; and
 * `state`.
 */
function folder(t: TestContext): (name: string) => string {
  const path = mkdtempSync(join(tmpdir(), "remus-disk-preflight-"));
  t.after(() => rmSync(path, { recursive: true }));
  for (const name of ["one", "two"]) {
    writeFileSync(join(path, name), "");
    truncateSync(join(path, name), 1 << 20);
  }
  symlinkSync("one", join(path, "link"));
  linkSync(join(path, "one"), join(path, "same"));
  mkdirSync(join(path, "state"));
  return (name) => join(path, name);
}

function disk(image: string, more: Partial<DiskSpec> = {}): DiskSpec {
  return {
    image,
    format: "raw",
    bus: "virtio-blk",
    storage: "replicated",
    durability: "strict",
    ...more,
  };
}

function shown(findings: readonly Finding[]): string[] {
  return findings.map(({ severity, code }) => `${severity} ${code}`);
}

for (const [what, disks, found] of [
  ["good images", [["one"], ["two"]], []],
  ["no disks", [], []],
  ["a missing one", [["none"], ["one"]], ["error image-missing"]],
  [
    "several mistakes, all told",
    [["none"], ["one", { format: "qcow2" }]],
    ["error image-missing", "error image-format"],
  ],
  ["one image twice, by a symbolic link", [["one"], ["link"]], ["error image-twice"]],
  ["one image twice, by a hard link", [["one"], ["two"], ["same"]], ["error image-twice"]],
  ["shared storage", [["one", { storage: "shared" }]], ["warning shared-disk"]],
  ["flushes that nobody waits for", [["one", { durability: "replicated" }]], []],
  [
    "flushes that nobody waits for, where they are needed",
    [
      ["none", { format: "qcow2", durability: "replicated" }],
      ["one", { storage: "shared", durability: "replicated" }],
    ],
    ["error image-missing", "warning shared-disk", "error durability-format", "error durability-shared"],
  ],
] as [string, [string, Partial<DiskSpec>?][], string[]][])
  test(`disks: ${what}`, async (t) => {
    const path = folder(t);
    const specs = disks.map(([name, more]) => disk(path(name), more));
    const { findings, images } = await diskPreflight(specs, { stateDirectory: path("state") });
    assert.deepEqual(shown(findings), found);
    for (const { severity, message } of findings)
      if (severity === "error") assert.match(message, /^vm\.disks\[\d\]\.image \/\S+ .*[a-z0-9)]\.$/);
    if (found.every((one) => one.startsWith("warning"))) assert.equal(images.length, disks.length);
  });

test("the second name of an image is told with the first one's place", async (t) => {
  const path = folder(t);
  const question = { stateDirectory: path("state") };
  const { findings } = await diskPreflight(
    [disk(path("two")), disk(path("one")), disk(path("link"))],
    question,
  );
  assert.match(
    findings[0]!.message,
    /^vm\.disks\[2\]\.image \S+\/link is that of vm\.disks\[1\] by another name/,
  );
});

test("what a host notes of a VM must survive a crash of the host", async (t) => {
  const path = folder(t);
  const codes = async (stateDirectory: string, storage: DiskSpec["storage"]) => {
    const { findings } = await diskPreflight([disk(path("one"), { storage })], { stateDirectory });
    return shown(findings);
  };
  const belowAFile = path("two/state");
  assert.deepEqual(await codes(belowAFile, "replicated"), ["error state-directory"]);
  // Who has no image of its own has a note of what this host is to the VM.
  assert.deepEqual(await codes(belowAFile, "shared"), ["warning shared-disk", "error state-directory"]);
  assert.deepEqual(await codes("/dev/shm/remus/state", "replicated"), ["warning state-in-memory"]);
});

test("an image that is whole needs no room, nor does one that is not copied", async (t) => {
  const path = folder(t);
  const whole = { kind: "file", virtualBytes: 2 ** 60, allocatedBytes: 2 ** 60 + 4096 } as const;
  const sparse = { ...whole, allocatedBytes: 0 };
  assert.deepEqual(await diskRoomFindings([disk(path("one"))], [whole]), []);
  assert.deepEqual(await diskRoomFindings([disk(path("one"), { storage: "shared" })], [sparse]), []);
  const device = { ...sparse, kind: "block-device" } as const;
  assert.deepEqual(await diskRoomFindings([disk(path("one"))], [device]), []);
  assert.deepEqual(shown(await diskRoomFindings([disk(path("one"))], [sparse])), ["error disk-full"]);
});

test("a limit of file sizes below an image, beyond which the guest's writes would fail, is found", (t) => {
  const at = folder(t);
  const module = new URL("../../src/hypervisor/qemu/disk-preflight.ts", import.meta.url).href;
  const script = `
    const { diskPreflight } = await import(${JSON.stringify(module)});
    const [disks, stateDirectory] = JSON.parse(process.argv[1]);
    const { findings } = await diskPreflight(disks, { stateDirectory });
    console.log(JSON.stringify(findings));`;
  const found = (blocks: number) => {
    const words = [
      "-c",
      `ulimit -f ${blocks}; exec "$@"`,
      "sh",
      process.execPath,
      "--input-type=module",
      "-e",
    ];
    const question = JSON.stringify([[disk(at("one"))], at("state")]);
    return JSON.parse(execFileSync("bash", [...words, script, question], { encoding: "utf8" })) as Finding[];
  };
  assert.deepEqual(shown(found(1024)), []);
  const below = found(1023);
  assert.deepEqual(shown(below), ["error file-size-limit"]);
  assert.match(below[0]!.message, /1048576 bytes, and a file of this process may have 1047552.*LimitFSIZE/);
});
