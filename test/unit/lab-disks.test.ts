// I7 for disks is judged by comparing images. The images must be what they are said to be, and every
// difference must be seen.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { access, open, readdir, readFile, stat } from "node:fs/promises";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { differingOffsets } from "../../src/lab/disk-check.ts";
import { type LabDisk, LabDisks } from "../../src/lab/disks.ts";
import { fsckClean } from "../../src/lab/file-system.ts";

const run = promisify(execFile);
const MIB = 2 ** 20;
const options = { timeout: 20_000 };

async function make(t: TestContext, disks: readonly LabDisk[]): Promise<LabDisks> {
  const made = await LabDisks.create(disks);
  t.after(() => made.destroy());
  return made;
}

async function virtualBytes(image: string): Promise<number> {
  const { stdout } = await run("qemu-img", ["info", "--output=json", image]);
  return JSON.parse(stdout)["virtual-size"];
}

test(
  "host A's images have what the guest needs, host B's are blank and of the same size",
  options,
  async (t) => {
    const disks = await make(t, [
      { mebibytes: 16, use: "data" },
      { mebibytes: 5.3, use: "load", contents: "random", bus: "virtio-scsi" },
      { mebibytes: 8, use: "idle", format: "qcow2", contents: "random" },
      { mebibytes: 4, use: "load", storage: "shared", durability: "replicated" },
    ]);
    assert.ok(await fsckClean(disks.image("a", 0)));
    for (const [index, bytes] of [16 * MIB, 10_854 * 512, 8 * MIB, 4 * MIB].entries())
      for (const host of ["a", "b"] as const)
        assert.equal(await virtualBytes(disks.image(host, index)), bytes, `disk ${index} of ${host}`);
    const random = await readFile(disks.image("a", 1));
    const zero = Buffer.alloc(512);
    const sectors = Array.from(
      { length: 10_854 },
      (_, at) => random.compare(zero, 0, 512, at * 512, at * 512 + 512) === 0,
    );
    assert.ok(
      sectors.includes(true) && !sectors.at(-1) && !sectors[0],
      "data and holes, and data at both ends",
    );
    const { blocks } = await stat(disks.image("b", 1));
    assert.equal(blocks, 0, "nothing is allocated");
    assert.notDeepEqual(await differingOffsets(disks.image("a", 2), disks.image("b", 2), "qcow2"), []);
    assert.equal(disks.image("a", 3), disks.image("b", 3), "one image for both hosts");
    assert.deepEqual(
      disks.spec("b").map(({ storage, durability }) => `${storage} ${durability}`),
      ["replicated strict", "replicated strict", "replicated strict", "shared replicated"],
    );
    assert.deepEqual(disks.inGuest, { data: "vda", load: ["sda", "vdc"] });
    await access(disks.stateDirectory("b"));
    await disks.destroy();
    await assert.rejects(readdir(disks.directory), /ENOENT/);
  },
);

for (const format of ["raw", "qcow2"] as const) {
  test(`${format}: a difference of one byte is seen wherever it is`, options, async (t) => {
    const disks = await make(t, [{ mebibytes: 9.001, use: "idle", format }]);
    const [a, b] = [disks.image("a", 0), disks.image("b", 0)];
    const bytes = await virtualBytes(a);
    assert.deepEqual(await differingOffsets(a, b, format), []);
    for (const at of [bytes - 1, 4 * MIB + 4095, 4 * MIB - 1, 0]) {
      await run("qemu-io", ["-f", format, "-c", `write -q -P 7 ${at} 1`, a]);
      const [first] = await differingOffsets(a, b, format);
      assert.ok(first !== undefined && first <= at && at < first + 4096, `byte ${at}: ${first}`);
    }
    for (const at of [bytes - 1, 4 * MIB + 4095, 4 * MIB - 1, 0])
      await run("qemu-io", ["-f", format, "-c", `write -q -P 7 ${at} 1`, b]);
    assert.deepEqual(await differingOffsets(a, b, format), []);
    // Written as zeroes at one host, never written at the other: a guest reads the same.
    await run("qemu-io", ["-f", format, "-c", "write -q -P 0 1M 64k", b]);
    assert.deepEqual(await differingOffsets(a, b, format), []);
  });
}

test(
  "every block of a raw image that differs is named, up to a limit; images of two sizes are an error",
  options,
  async (t) => {
    const disks = await make(t, [{ mebibytes: 8, use: "idle" }]);
    const [a, b] = [disks.image("a", 0), disks.image("b", 0)];
    const file = await open(b, "r+");
    for (const at of [5, 4096, 12_287, 5 * MIB]) await file.write(Buffer.from([1]), 0, 1, at);
    assert.deepEqual(await differingOffsets(a, b, "raw"), [0, 4096, 8192, 5 * MIB]);
    await file.write(Buffer.alloc(MIB, 1), 0, MIB, 0);
    assert.equal((await differingOffsets(a, b, "raw")).length, 32);
    await file.truncate(8 * MIB + 512);
    await file.close();
    await assert.rejects(differingOffsets(a, b, "raw"), /not of the same size/);
  },
);
