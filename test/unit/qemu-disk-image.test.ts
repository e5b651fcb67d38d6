/** What an image is, read off its header: real images, made by qemu-img. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type ImageProblem, inspectImage } from "../../src/hypervisor/qemu/disk-image.ts";
import { isUnique } from "../../src/hypervisor/qemu/image-identity.ts";

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "remus-image-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

function create(path: string, format: string, ...more: string[]): string {
  execFileSync("qemu-img", ["create", "-q", "-f", format, ...more, path, "4M"]);
  return path;
}

async function problem(path: string, format: "raw" | "qcow2"): Promise<string> {
  const found = await inspectImage(path, format).then(
    () => assert.fail(`${path} was taken`),
    (error: ImageProblem) => error,
  );
  assert.ok(found.message.length > 10);
  return found.code;
}

test("raw and qcow2: sizes as the guest sees them", async (t) => {
  const dir = folder(t);
  const raw = await inspectImage(create(join(dir, "raw"), "raw"), "raw");
  assert.deepEqual([raw.kind, raw.virtualBytes, raw.clusterBytes], ["file", 4 << 20, undefined]);
  assert.ok(raw.allocatedBytes < 1 << 20);
  const qcow2 = await inspectImage(create(join(dir, "q"), "qcow2", "-o", "cluster_size=128k"), "qcow2");
  assert.deepEqual([qcow2.virtualBytes, qcow2.clusterBytes], [4 << 20, 128 << 10]);
});

test("an image is known again by another path, and no other one is taken for it", async (t) => {
  const dir = folder(t);
  const [one, other] = ["one", "other"].map((name) => create(join(dir, name), "raw")) as [string, string];
  linkSync(one, join(dir, "again"));
  symlinkSync(one, join(dir, "link"));
  const identity = async (path: string) => (await inspectImage(path, "raw")).identity;
  const first = await identity(one);
  assert.ok(first !== undefined);
  assert.deepEqual([await identity(join(dir, "again")), await identity(join(dir, "link"))], [first, first]);
  assert.notEqual(await identity(other), first);
  // What is written to it does not make it another one.
  writeFileSync(one, Buffer.alloc(4 << 20, 1));
  assert.equal(await identity(one), first);
});

test("names that all emulated disks have tell none apart", () => {
  for (const name of [
    "",
    "naa.0000000000000000",
    "t10.ATA     QEMU HARDDISK                           QM00001",
  ])
    assert.equal(isUnique(name), false, name);
  for (const name of [
    "naa.60003ff44dc75adc",
    "mpath-360000000000000000e00000000010001",
    "eui.0025385b71b0e4c1",
  ])
    assert.equal(isUnique(name), true, name);
});

test("what cannot be used is named by a code", async (t) => {
  const dir = folder(t);
  const raw = create(join(dir, "raw"), "raw");
  const qcow2 = create(join(dir, "q"), "qcow2");
  assert.equal(await problem(join(dir, "none"), "raw"), "image-missing");
  assert.equal(await problem(raw, "qcow2"), "image-format");
  mkdirSync(join(dir, "folder"));
  assert.equal(await problem(join(dir, "folder"), "raw"), "image-kind");
  writeFileSync(join(dir, "empty"), "");
  assert.equal(await problem(join(dir, "empty"), "raw"), "image-size");
  truncateSync(raw, 1000);
  assert.equal(await problem(raw, "raw"), "image-size");
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-b", qcow2, "-F", "qcow2", join(dir, "over")]);
  assert.equal(await problem(join(dir, "over"), "qcow2"), "image-backing");
  const data = create(join(dir, "ext"), "qcow2", "-o", `data_file=${join(dir, "ext.data")}`);
  assert.equal(await problem(data, "qcow2"), "image-external-data");
});

for (const [what, magic] of [
  ["qcow2 with a backing file", "514649fb00000003000000000000ffff0000000800000010"],
  ["qcow", "514649fb00000001"],
  ["QED", "51454400"],
  ["VMDK", "4b444d5601000000"],
  ["VHDX", "7668647866696c65"],
  ["VHD", "636f6e6563746978"],
  ["LUKS", "4c554b53babe0001"],
  ["Parallels", "576974686f757446726565537061636545787400"],
  ["VDI", `${"00".repeat(64)}7f10dabe`],
  ["a partition table", `${"00".repeat(510)}55aa`],
] as const)
  test(`a raw disk whose guest has written what looks like ${what} is taken as raw, again and again`, async (t) => {
    const image = create(join(folder(t), "raw"), "raw");
    const file = openSync(image, "r+");
    writeSync(file, Buffer.from(magic, "hex"), 0, magic.length / 2, 0);
    closeSync(file);
    for (let start = 0; start < 2; start++)
      assert.equal((await inspectImage(image, "raw")).virtualBytes, 4 << 20);
  });

test("nobody is advised to open an image in a format that its guest could have written", async (t) => {
  const image = create(join(folder(t), "raw"), "raw");
  await assert.rejects(inspectImage(image, "qcow2"), (error: ImageProblem) => {
    assert.equal(error.code, "image-format");
    assert.doesNotMatch(error.message, /set format/);
    return true;
  });
});

/** Offsets and values: QEMU docs/interop/qcow2.txt, "Header". */
for (const [what, offset, bytes, expected] of [
  ["version 4", 4, [0, 0, 0, 4], "image-format"],
  ["encryption of its own", 32, [0, 0, 0, 2], "image-encrypted"],
  ["the corrupt bit", 79, [2], "image-corrupt"],
  ["clusters of 2^40 bytes", 20, [0, 0, 0, 40], "image-corrupt"],
  ["a size of no bytes", 24, [0, 0, 0, 0, 0, 0, 0, 0], "image-size"],
  ["a size of half a sector", 31, [1], "image-size"],
  ["the dirty bit, which QEMU mends itself", 79, [1], undefined],
] as const)
  test(`qcow2 with ${what}: ${expected ?? "taken"}`, async (t) => {
    const image = create(join(folder(t), "q"), "qcow2");
    const file = openSync(image, "r+");
    writeSync(file, Uint8Array.from(bytes), 0, bytes.length, offset);
    closeSync(file);
    if (expected === undefined) assert.equal((await inspectImage(image, "qcow2")).virtualBytes, 4 << 20);
    else assert.equal(await problem(image, "qcow2"), expected);
  });

test("qcow2 of version 2, with snapshots, and with dirty bitmaps in it, is taken", async (t) => {
  const dir = folder(t);
  const old = await inspectImage(create(join(dir, "old"), "qcow2", "-o", "compat=0.10"), "qcow2");
  assert.deepEqual([old.virtualBytes, old.clusterBytes], [4 << 20, 64 << 10]);
  const image = create(join(dir, "q"), "qcow2");
  execFileSync("qemu-img", ["snapshot", "-c", "before", image]);
  execFileSync("qemu-img", ["bitmap", "--add", image, "b"]);
  assert.equal((await inspectImage(image, "qcow2")).virtualBytes, 4 << 20);
});

/** qemu-nbd listens before it opens its image, and greets after that. */
async function greeted(socket: string): Promise<void> {
  for (const end = Date.now() + 10_000; ; ) {
    const connection = createConnection(socket);
    const greeting = await once(connection, "data").catch((error: Error) => error);
    connection.destroy();
    if (!(greeting instanceof Error)) return;
    if (Date.now() > end) throw greeting;
    await new Promise((again) => setTimeout(again, 10));
  }
}

test("an image that another QEMU has open is in use, and not when that has ended", async (t) => {
  const dir = folder(t);
  const image = create(join(dir, "raw"), "raw");
  const socket = join(dir, "nbd.sock");
  const other = spawn("qemu-nbd", ["-f", "raw", "-k", socket, "-t", image]);
  t.after(() => other.kill("SIGKILL"));
  await greeted(socket);
  assert.equal(await problem(image, "raw"), "image-in-use");
  assert.equal((await inspectImage(image, "raw", { own: false })).virtualBytes, 4 << 20);
  other.kill("SIGTERM");
  await once(other, "exit");
  assert.equal((await inspectImage(image, "raw")).virtualBytes, 4 << 20);
});
