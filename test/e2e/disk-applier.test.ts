/**
 * What is put into the backup's images, through a QEMU that is not ours: invariant I7 where QEMU's own format
 * can be hurt.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { DISK_WRITE, DISK_ZERO, type DiskEntry } from "../../src/codec/replication.ts";
import { DiskApplier } from "../../src/disk/applier.ts";
import { NbdClient } from "../../src/disk/nbd-client.ts";

const run = promisify(execFile);
const CLUSTER = 64 << 10;
const CLUSTERS = 512;

/**
 * A qcow2 image all of whose clusters are allocated and read as zeroes: what a primary leaves whose guest has
 * zeroed its disk.
 */
async function zeroedImage(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "remus-applier-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const image = join(folder, "disk.qcow2");
  const bytes = CLUSTERS * CLUSTER;
  await run("qemu-img", [
    "create",
    "-q",
    "-f",
    "qcow2",
    "-o",
    `cluster_size=${CLUSTER}`,
    image,
    String(bytes),
  ]);
  const words = [`write -P 1 0 ${bytes}`, `write -z 0 ${bytes}`].flatMap((word) => ["-c", word]);
  await run("qemu-io", ["-f", "qcow2", ...words, image]);
  return image;
}

/** As the standby has it open. Ends when the client leaves. */
async function served(t: TestContext, image: string): Promise<NbdClient> {
  const socket = `${image}.sock`;
  const pidFile = `${image}.pid`;
  const words = ["-f", "qcow2", "--discard=unmap", "-k", socket, "-x", "disk0", `--pid-file=${pidFile}`];
  await run("sh", ["-c", '"$@" >/dev/null', "sh", "qemu-nbd", "--fork", ...words, image]);
  const pid = Number(await readFile(pidFile, "utf8"));
  t.after(() => {
    try {
      process.kill(pid);
    } catch {
      // It has left with its client.
    }
  });
  return await NbdClient.connect({ path: socket, exportName: "disk0", contexts: ["base:allocation"] });
}

test("a write and a zero beside it in one cluster do not meet: QEMU 7.2 frees the cluster that is being written (I7)", async (t) => {
  const image = await zeroedImage(t);
  const client = await served(t, image);
  const applier = new DiskApplier(new Map([[0, { client, grainBytes: CLUSTER }]]));
  const data = Buffer.alloc(4096, 7);
  const entries = Array.from({ length: CLUSTERS }, (_, at): DiskEntry[] => [
    { disk: 0, kind: DISK_WRITE, offset: at * CLUSTER, length: 4096, data },
    { disk: 0, kind: DISK_ZERO, offset: at * CLUSTER + 8192, length: CLUSTER - 8192 },
  ]);
  await applier.apply(entries.flat());
  await applier.flush();
  const wrong = [];
  for (let at = 0; at < CLUSTERS; at++)
    if (!(await client.read(at * CLUSTER, 4096)).equals(data)) wrong.push(at);
  await applier.close();
  await run("qemu-img", ["check", image]);
  assert.deepEqual(wrong, [], "clusters whose data is gone");
});
