import assert from "node:assert/strict";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { whyDiskFull, whyNoRoom } from "../../src/guardian/backup/test-failover-room.ts";

/** A file system without any room. */
const FULL = "/proc";

test("a clone for which there is no memory, or no room on the disk, is refused with what it needs and what there is", async () => {
  const room = { ramMiB: 1, imageDirectory: tmpdir(), diskFolder: undefined };
  assert.equal(await whyNoRoom(room), undefined);
  assert.match((await whyNoRoom({ ...room, ramMiB: 2 ** 30 }))!, /needs? 10737\d+ MiB.*free some/);
  assert.match(
    (await whyNoRoom({ ...room, imageDirectory: FULL }))!,
    /needs 1 MiB in \/proc, and 0 MiB are free/,
  );
  assert.equal(await whyNoRoom({ ...room, diskFolder: tmpdir() }), undefined);
  assert.match((await whyNoRoom({ ...room, diskFolder: FULL }))!, /goes to \/proc, where 0 MiB are free/);
});

test("a clone whose disks fill the file system must go", async () => {
  assert.equal(await whyDiskFull(tmpdir()), undefined);
  assert.match((await whyDiskFull(FULL))!, /only 0 MiB are free in \/proc/);
});
