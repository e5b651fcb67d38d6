/**
 * A VM with more than 4 GiB of RAM, all its high memory in use; and a file system in memory that is full to
 * the last byte when it is protected, and when it goes on at the backup.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, statfsSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Lab } from "../../src/lab/lab.ts";
import { assertRamEqual, assertUnharmed, GRACE_MS, makeLab } from "../e2e/lab-session.ts";

const MEMORY_MIB = 6144;
/** Of 6 GiB the guest sees 3 above the 4 GiB of its address space. Linux gives those out first. */
const FILLED_MIB = 3456;
const VALUE_MIB = 4;
/** Under software emulation each pause grows with the RAM; the guest is to have time for its work. */
const INTERVAL_MS = 500;
const BATCH = 24;

/**
 * Each value is a repetition of a text of its own, whose length divides no page: a page in a wrong place
 * shows.
 */
const FILL = `for i = ARGV[1], ARGV[2] do
  redis.call('set', 'big' .. i, string.rep(string.format('%011d-', i), ${VALUE_MIB * 87381}))
end`;
const WRONG = `local wrong = 0
for i = ARGV[1], ARGV[2] do
  if redis.call('get', 'big' .. i) ~= string.rep(string.format('%011d-', i), ${VALUE_MIB * 87381}) then wrong = wrong + 1 end
end
return wrong`;

/** Runs a script over the values `from` to `to`, some at a time, so that the guest has turns for others. */
async function over(lab: Lab, script: string, [from, to]: readonly [number, number]): Promise<number> {
  let sum = 0;
  for (let first = from; first <= to; first += BATCH)
    sum += Number(
      await lab.redis("EVAL", script, "0", String(first), String(Math.min(to, first + BATCH - 1))),
    );
  return sum;
}

/** A file system of its own for host B's RAM image, with little more room than that takes. */
function smallRoom(lab: Lab): string {
  const place = join(lab.directory, "b", "image");
  mkdirSync(place, { recursive: true, mode: 0o700 });
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${MEMORY_MIB + 16}m,mode=0700`, "remus-test", place]);
  return place;
}

function fillUp(place: string): void {
  const fd = openSync(join(place, "other"), "w");
  try {
    for (;;) writeSync(fd, new Uint8Array(64 << 10));
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, "ENOSPC");
  } finally {
    closeSync(fd);
  }
  assert.equal(statfsSync(place).bavail, 0);
}

test("I7, I4: 6 GiB of RAM, high memory full: equal at each check, and right after a failover, with the image's file system full", async (t) => {
  let place: string | undefined;
  // Before the lab is taken down: its directory goes with it.
  t.after(() => {
    if (place !== undefined) execFileSync("umount", ["-l", place]);
  });
  const lab = await makeLab(t, { memoryMiB: MEMORY_MIB, detectionMs: 2000, intervalMs: INTERVAL_MS });
  place = smallRoom(lab);
  await lab.start();
  fillUp(place);
  const count = FILLED_MIB / VALUE_MIB;
  await over(lab, FILL, [1, count - BATCH]);
  await lab.protect();
  const client = lab.client();
  await client.answers(20, GRACE_MS);
  await assertRamEqual(lab);
  // Memory that the guest has not used before, while it is protected.
  await over(lab, FILL, [count - BATCH + 1, count]);
  await assertRamEqual(lab, 2);
  await lab.kill("power");
  await lab.failedOver();
  await client.answers(20, GRACE_MS);
  assert.equal(await over(lab, WRONG, [1, count]), 0, "values that are wrong");
  // And such memory on the survivor.
  await over(lab, FILL, [count + 1, count + BATCH]);
  assert.equal(await over(lab, WRONG, [count + 1, count + BATCH]), 0, "new values that are wrong");
  await assertUnharmed(client);
});
