/** Damage of the kind that QEMU was seen to do to qcow2 images, found and mended by qemu-img (I7). */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { isSound, repair } from "../../src/hypervisor/qemu/disk-repair.ts";

const CLUSTER = 65536;

function io(image: string, ...commands: string[]): string {
  const words = commands.flatMap((command) => ["-c", command]);
  return execFileSync("qemu-io", ["-f", "qcow2", ...words, image], { encoding: "utf8" });
}

function image(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "remus-repair-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "disk.qcow2");
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", path, "4M"]);
  io(path, `write -P 1 0 ${CLUSTER}`, `write -P 2 ${CLUSTER} ${CLUSTER}`);
  return path;
}

/** Puts the disk's second cluster where its first one is. Offsets: QEMU docs/interop/qcow2.txt. */
function share(path: string): void {
  const fd = openSync(path, "r+");
  const number = (at: number): bigint => {
    const bytes = Buffer.alloc(8);
    readSync(fd, bytes, 0, 8, at);
    return bytes.readBigUInt64BE();
  };
  const l2 = Number(number(Number(number(40))) & 0x00ff_ffff_ffff_fe00n);
  const entry = Buffer.alloc(8);
  entry.writeBigUInt64BE(number(l2));
  writeSync(fd, entry, 0, 8, l2 + 8);
  closeSync(fd);
}

test("two places of a disk in one cluster: damaged; mended, they go apart again when one is written", async (t) => {
  const path = image(t);
  assert.ok(await isSound(path));
  share(path);
  assert.ok(!(await isSound(path)));
  await repair(path);
  assert.ok(await isSound(path));
  const said = io(path, `write -P 3 0 ${CLUSTER}`, `read -P 1 ${CLUSTER} ${CLUSTER}`);
  assert.doesNotMatch(said, /failed/);
});

test("a cluster that nothing refers to does no harm", async (t) => {
  const path = image(t);
  const fd = openSync(path, "r+");
  const l1 = Buffer.alloc(8);
  readSync(fd, l1, 0, 8, 40);
  // Both clusters and their table are lost.
  writeSync(fd, Buffer.alloc(8), 0, 8, Number(l1.readBigUInt64BE()));
  closeSync(fd);
  assert.ok(await isSound(path));
});

test("what is no image rejects, and is not called damaged", async (t) => {
  const path = image(t);
  writeFileSync(path, "no image");
  await assert.rejects(isSound(path), /qcow2/);
});
