/**
 * The first sync of a large disk with little on it: it sends what is there, no faster than it may, and tells
 * how far it is.
 */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { open } from "node:fs/promises";
import { test } from "node:test";
import { promisify } from "node:util";
import type { SyncProgress } from "../../src/guardian/control/status.ts";
import { allocatedBytes, syncsOf } from "./disk-session.ts";
import { makeLab } from "./lab-session.ts";

const run = promisify(execFile);
const MIB = 1 << 20;
const DISK_MIB = 2048;
const DATA_MIB = 8;
const LIMIT_MIBPS = 2;

test("8 MiB on a disk of 2 GiB: as sparse at the backup, 8 MiB sent, at the rate that was allowed", async (t) => {
  const told: string[] = [];
  const lab = await makeLab(t, {
    disks: [{ mebibytes: DISK_MIB, use: "idle" }],
    syncMiBps: LIMIT_MIBPS,
    onEvent: (_host, event) => {
      if (event.text !== undefined) told.push(event.text);
    },
  });
  const [a, b] = [lab.disks.image("a", 0), lab.disks.image("b", 0)];
  const image = await open(a, "r+");
  for (let piece = 0; piece < DATA_MIB; piece++) {
    // Apart, and at the very end.
    const at = (DISK_MIB / DATA_MIB) * (piece + 1) * MIB - MIB;
    await image.write(randomBytes(MIB), 0, MIB, at);
  }
  await image.sync();
  await image.close();
  await Promise.all([lab.startBackup(), lab.startPrimary()]);

  const seen: SyncProgress[] = [];
  const watch = setInterval(async () => {
    const { sync } = await lab.primary.control.primaryStatus();
    if (sync !== undefined) seen.push(sync);
  }, 200);
  await lab.protect();
  clearInterval(watch);

  const [sync] = await syncsOf(lab);
  const { seconds, sentBytes, totalBytes, way, wireBytes } = sync!;
  assert.equal(way, "blank");
  assert.equal(totalBytes, DISK_MIB * MIB);
  assert.equal(sentBytes, DATA_MIB * MIB);
  assert.ok(wireBytes < sentBytes * 1.01, `${wireBytes} bytes on the wire`);
  assert.ok(seconds >= 3, `${seconds} s are too short to tell the rate`);
  const rate = DATA_MIB / seconds;
  assert.ok(Math.abs(rate - LIMIT_MIBPS) < LIMIT_MIBPS / 4, `${rate} MiB/s, and ${LIMIT_MIBPS} were allowed`);

  const halfWay = seen.filter(({ doneBytes, sentBytes }) => doneBytes > 0 && sentBytes < DATA_MIB * MIB);
  assert.ok(halfWay.length > 5, `progress was seen ${seen.length} times`);
  assert.ok(halfWay.some(({ secondsLeft = 0 }) => secondsLeft > 0));
  for (const [i, { doneBytes }] of seen.entries()) assert.ok(i === 0 || doneBytes >= seen[i - 1]!.doneBytes);
  assert.ok(
    told.some((text) => /^disk0: \d+\.\d of 2048\.0 MiB, \d+\.\d MiB\/s, \d+ s left$/.test(text)),
    told.join("\n"),
  );

  await lab.stopProtection();
  await run("qemu-img", ["compare", "-U", "-f", "raw", "-F", "raw", a, b]);
  const [atA, atB] = [await allocatedBytes(a), await allocatedBytes(b)];
  assert.ok(Math.abs(atA - atB) <= MIB / 4, `${atA} bytes are allocated at A, ${atB} at B`);
});
