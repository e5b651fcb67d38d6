/**
 * Disks as large as those of VMs are: above 4 GiB, and at the end of one of a tebibyte that is no whole
 * number of blocks.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { DISK_WRITE, HASH_BYTES, HEADER_BYTES } from "../../src/codec/replication.ts";
import { decodeDisk, encodeDisk } from "../../src/codec/replication-disk.ts";
import { hashBlocks, zeroExtents } from "../../src/disk/block-hash.ts";
import { IntentLog, newLogPath, readIntents } from "../../src/disk/intent-log.ts";
import { NbdClient } from "../../src/disk/nbd-client.ts";
import { WriteRing } from "../../src/disk/write-ring.ts";
import { inspectImage } from "../../src/hypervisor/qemu/disk-image.ts";
import { IDS } from "./replication-samples.ts";

const SECTOR = 512;
const GIB = 2 ** 30;
/** Neither whole blocks of 4 KiB nor of 64 KiB. */
const DISK_BYTES = 1024 * GIB + 3 * SECTOR;
const PLACES = [4 * GIB - SECTOR, 4 * GIB, 8 * GIB + SECTOR, 512 * GIB - SECTOR, DISK_BYTES - 2 * SECTOR];

function sector(place: number): Buffer {
  return Buffer.alloc(2 * SECTOR, `here begins ${place}. `);
}

/** Exported by QEMU's own server. */
async function sparseDisk(t: TestContext): Promise<{ client: NbdClient; image: string }> {
  const dir = mkdtempSync(join(tmpdir(), "remus-large-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const [image, path] = [join(dir, "image"), join(dir, "socket")];
  writeFileSync(image, "");
  truncateSync(image, DISK_BYTES);
  const server = spawn("qemu-nbd", ["-f", "raw", "-k", path, "-t", "-x", "d", "--discard=unmap", image]);
  t.after(async () => {
    const gone = once(server, "exit");
    if (server.exitCode === null && server.kill("SIGKILL")) await gone;
  });
  for (const end = Date.now() + 10_000; !existsSync(path) && Date.now() < end; )
    await new Promise((again) => setTimeout(again, 10));
  const client = await NbdClient.connect({ path, exportName: "d", contexts: ["base:allocation"] });
  t.after(() => client.destroy("the test is over"));
  return { client, image };
}

test("what is written far inside a large disk lies there, is found by its holes, and is told apart by its hashes (I4)", async (t) => {
  const { client, image } = await sparseDisk(t);
  assert.equal(client.bytes, DISK_BYTES);
  for (const place of PLACES) await client.write(place, sector(place));
  await client.flush();
  const file = await open(image, "r");
  try {
    for (const place of PLACES.filter((place) => place !== 4 * GIB - SECTOR)) {
      const { buffer } = await file.read(Buffer.alloc(2 * SECTOR), 0, 2 * SECTOR, place);
      assert.deepEqual(buffer, sector(place), `at ${place}`);
    }
  } finally {
    await file.close();
  }
  assert.deepEqual(Buffer.from(await client.read(PLACES.at(-1)!, 2 * SECTOR)), sector(PLACES.at(-1)!));
  const data: { from: number; to: number }[] = [];
  for await (const { zero, ...extent } of zeroExtents(client, { from: 0, to: DISK_BYTES }))
    if (!zero) data.push(extent);
  for (const place of PLACES)
    assert.ok(
      data.some(({ from, to }) => from <= place && place < to),
      `${place} is in ${JSON.stringify(data)}`,
    );
  assert.ok(data.reduce((sum, { from, to }) => sum + to - from, 0) < GIB / 1024, "holes are holes");
  // The last block is cut short by the disk's end.
  const stride = { from: 1024 * GIB - 65536, to: DISK_BYTES };
  const before = await hashBlocks(client, stride, 4096);
  assert.equal(before.length, 17 * HASH_BYTES);
  await client.zero(PLACES.at(-1)!, 2 * SECTOR);
  const after = await hashBlocks(client, stride, 4096);
  assert.deepEqual(before.subarray(0, 16 * HASH_BYTES), after.subarray(0, 16 * HASH_BYTES));
  assert.notDeepEqual(before, after);
  // All of the disk in one request of the caller's: more than 32 bits can say.
  await client.zero(0, DISK_BYTES - (DISK_BYTES % 65536), { noHole: false });
  assert.deepEqual(Buffer.from(await client.read(PLACES[3]!, SECTOR)), Buffer.alloc(SECTOR));
});

test("a guest's write far inside a large disk comes out of the ring and off the link where it was (I4)", () => {
  const ring = WriteRing.ofSize(1 << 20);
  for (const place of PLACES) assert.equal(ring.write(7, place, sector(place), 1), 2 * SECTOR);
  ring.publish();
  const entries = PLACES.map((_, ahead) => ring.peek(ahead)!);
  // The second continues the first.
  const places = entries.filter((entry) => entry !== undefined).map(({ offset }) => offset);
  assert.deepEqual(places, PLACES);
  const sent = entries.map(({ data, disk, length, offset }) => ({
    disk,
    kind: DISK_WRITE,
    offset,
    length,
    data: data!,
  }));
  const frame = encodeDisk(IDS, 1, sent as Parameters<typeof encodeDisk>[2]);
  const payload = new Uint8Array(Buffer.concat(frame.parts).subarray(HEADER_BYTES));
  assert.deepEqual(
    decodeDisk(payload).map(({ disk, offset, length }) => ({ disk, offset, length })),
    sent.map(({ disk, length, offset }) => ({ disk, offset, length })),
  );
});

test("write-intents of a large disk name the places that were marked (I4)", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "remus-intents-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const of = { session: "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10", disk: 0, diskBytes: DISK_BYTES };
  const log = await IntentLog.create(await newLogPath(dir, "vm", 0), of);
  for (const place of PLACES) await log.mark({ from: place, to: place + 2 * SECTOR });
  await log.close();
  const extents = (await readIntents(dir, "vm", 0, of.session))!;
  for (const place of PLACES)
    for (const end of [place, place + 2 * SECTOR - 1])
      assert.ok(
        extents.some(({ from, to }) => from <= end && end < to),
        `${end}`,
      );
  assert.ok(extents.reduce((sum, { from, to }) => sum + to - from, 0) <= 16 << 20);
  assert.equal(extents.at(-1)!.to, DISK_BYTES);
});

test("images of odd sizes are taken as they are, if they are whole sectors", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "remus-odd-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const image = join(dir, "-an image, with: 'all' \"kinds\" of ünusual=characters");
  for (const bytes of [SECTOR, 4096 + SECTOR, 65536 * 3 - SECTOR, 4 * GIB + SECTOR, DISK_BYTES]) {
    writeFileSync(image, "");
    truncateSync(image, bytes);
    assert.equal((await inspectImage(image, "raw")).virtualBytes, bytes);
  }
  for (const bytes of [0, 1, 4 * GIB + 1, DISK_BYTES - 1]) {
    writeFileSync(image, "");
    truncateSync(image, bytes);
    await assert.rejects(
      inspectImage(image, "raw"),
      new RegExp(`has ${bytes} bytes; make it a multiple of 512`),
    );
  }
});
