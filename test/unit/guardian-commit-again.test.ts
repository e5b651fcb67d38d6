/**
 * I4: images that do not take what is left of a lost primary's VM are tried again, until they have all of it,
 * in order.
 */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { DISK_WRITE, type DiskEntry } from "../../src/codec/replication.ts";
import { NbdClient } from "../../src/disk/nbd-client.ts";
import { StateFile } from "../../src/disk/state-file.ts";
import { CommitAgain } from "../../src/guardian/backup/commit-again.ts";
import { BackupDisks } from "../../src/guardian/disks/backup-disks.ts";

const VM = "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10";

/** A backup with one disk of 16 places, each a byte. */
async function backup(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), "remus-again-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const image = new Uint8Array(16);
  const world = { full: false, connections: 0 };
  let drop: ((why: { message: string }) => void) | undefined;
  t.mock.method(NbdClient, "connect", async () => {
    world.connections++;
    const { promise: closed, resolve } = Promise.withResolvers<{ message: string }>();
    drop = resolve;
    return {
      bytes: 16,
      closed,
      write: async (offset: number, data: Uint8Array) => {
        await nextTurn();
        if (world.full) throw new Error("disk0: write: ENOSPC");
        image.set(data, offset);
      },
      flush: async () => {},
    };
  });
  const record = await StateFile.open(join(directory, "vm1.json"), VM);
  const failed: string[] = [];
  const disks = await BackupDisks.open({
    qmp: { execute: async () => [] } as never,
    runDirectory: directory,
    disks: [{ disk: 0, image: "/images/disk.raw", clusterBytes: undefined }],
    record,
    log: { folder: directory, vm: "vm1" },
    onFailed: (reason) => failed.push(reason),
    onDurable: () => {},
  });
  return { directory, disks, drop: () => drop!({ message: "the export is gone" }), failed, image, world };
}

const write = (offset: number, ...bytes: number[]): DiskEntry => ({
  disk: 0,
  kind: DISK_WRITE,
  offset,
  length: bytes.length,
  data: Uint8Array.from(bytes),
});

const aWhile = async () => {
  for (let turn = 0; turn < 20; turn++) await nextTurn();
};

test("what the image did not take of epoch 0 is put in, in order, and counted once; then it takes checkpoints", async (t) => {
  const { disks, failed, image, world } = await backup(t);
  disks.begin("s", 1);
  await disks.firstPass();
  let applied = 0;
  const early = (...entries: DiskEntry[]) => disks.applyNow(entries, entries.length, () => applied++);
  early(write(0, 1));
  await aWhile();
  world.full = true;
  early(write(0, 2, 2));
  early(write(1, 3), write(5, 5));
  early(write(5, 6));
  await aWhile();
  assert.equal(await disks.apply([write(7, 7)]), false);
  assert.equal(failed.length, 1);
  assert.match(failed[0]!, /ENOSPC.*Make room for \/images\/disk\.raw/);
  await disks.again();
  await aWhile();
  assert.deepEqual([failed.length, applied], [2, 1], "it is still full");
  world.full = false;
  await disks.again();
  assert.equal(await disks.apply([write(7, 7)]), true);
  assert.deepEqual([...image.subarray(0, 8)], [2, 3, 0, 0, 0, 6, 0, 7]);
  assert.deepEqual([applied, disks.appliedBytes], [4, 5]);
  assert.equal(failed.length, 2);
});

test("a connection to the image that is over is made anew", async (t) => {
  const { disks, drop, failed, image, world } = await backup(t);
  disks.begin("s", 1);
  await disks.firstPass();
  drop();
  await aWhile();
  assert.deepEqual(failed, ["disk0: the export is gone"]);
  assert.equal(await disks.apply([write(0, 1)]), false);
  await disks.again();
  assert.equal(await disks.apply([write(0, 1)]), true);
  assert.deepEqual([image[0], world.connections], [1, 2]);
});

test("a note that could not be made is made before anything changes", async (t) => {
  const { directory, disks, failed, image } = await backup(t);
  rmSync(join(directory, "vm1.json"), { force: true });
  mkdirSync(join(directory, "vm1.json"));
  disks.begin("s", 1);
  assert.equal(await disks.apply([write(0, 1)]), false);
  assert.equal(failed.length, 1);
  await disks.again();
  assert.equal(await disks.apply([write(0, 1)]), false);
  assert.deepEqual([failed.length, image[0]], [2, 0]);
  rmSync(join(directory, "vm1.json"), { recursive: true });
  await disks.again();
  assert.equal(await disks.apply([write(0, 1)]), true);
  assert.equal(image[0], 1);
});

test("it is tried less and less often; an alarm stands until a checkpoint is in the images", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const told: string[] = [];
  let tries = 0;
  const again = new CommitAgain({
    log: { error: () => {}, info: () => {}, warn: () => {} } as never,
    control: {
      publish: (event: unknown) => {
        const { about, raised, text } = event as { about: string; raised: boolean; text: string };
        told.push(`${about} ${raised ? "raised" : "lowered"}: ${text}`);
      },
    } as never,
    ready: async () => {},
    commit: () => {
      tries++;
      return true;
    },
    wanted: () => true,
  });
  const full = "disk0: ENOSPC. Make room for /images/disk.raw on that host";
  again.failed(full);
  again.failed("the same, told by another request");
  assert.match(told[0]!, /^disk raised: the VM waits for the images here.*Make room for \/images/);
  assert.equal(told.length, 1);
  t.mock.timers.tick(100);
  await nextTurn();
  assert.equal(tries, 1);
  again.failed(full);
  t.mock.timers.tick(100);
  await nextTurn();
  assert.equal(tries, 1, "so soon it is not tried again");
  t.mock.timers.tick(100);
  await nextTurn();
  assert.equal(tries, 2);
  again.worked();
  assert.deepEqual(
    told.map((one) => one.split(":")[0]),
    ["disk raised", "disk lowered"],
  );
});
