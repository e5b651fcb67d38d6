/** The state file says what a host is to the VM. What follows from that is in core-start-up.test.ts. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { StateFile, StateFileError } from "../../src/disk/state-file.ts";

const VM = "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10";
const SESSION = "0f4b39a2-5b0e-4c3b-8c44-7e1b9e0c7d11";

function place(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "remus-state-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return join(directory, "below", "vm1.json");
}

test("what was written is read again; the last one counts, however many are under way", async (t) => {
  const path = place(t);
  const file = await StateFile.open(path, VM);
  assert.equal(file.state, undefined);
  const replica = (durableEpoch: number) =>
    ({ generation: 3, images: "replica", session: SESSION, durableEpoch }) as const;
  await Promise.all([1, 2, 3].map((epoch) => file.write(replica(epoch))));
  const again = await StateFile.open(path, VM);
  assert.deepEqual(again.state, { version: 1, vm: VM, ...replica(3) });
});

test("a file that is no state file, or another VM's, is refused by its name", async (t) => {
  const path = `${place(t)}.other`;
  const other = "11111111-2222-4333-8444-555555555555";
  await (await StateFile.open(path, VM)).write({ generation: 1, images: "owner" });
  await assert.rejects(StateFile.open(path, other), (error: Error) => {
    assert.ok(error instanceof StateFileError);
    assert.ok(error.message.includes(path) && error.message.includes(VM), error.message);
    return true;
  });
  for (const text of ["{", "null", "[]", '{"version":2}', '{"version":1,"generation":1,"images":"mine"}']) {
    writeFileSync(path, text);
    await assert.rejects(StateFile.open(path, VM), StateFileError, text);
  }
});

test("I2: a state file that finds no room names itself, the reason and the remedy, and is whole when there is room again", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "remus-state-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  // A device that takes nothing: as full as a disk can be.
  symlinkSync("/dev/full", join(directory, "vm1.json.new"));
  const path = join(directory, "vm1.json");
  const file = await StateFile.open(path, VM);
  await assert.rejects(file.write({ generation: 1, images: "owner" }), (error: Error) => {
    assert.ok(error instanceof StateFileError);
    assert.ok(error.message.startsWith(`${path} cannot be written: ENOSPC`), error.message);
    assert.match(error.message, /make room on its file system$/);
    return true;
  });
  assert.equal(file.state, undefined, "what is not on the disk is not noted");
  rmSync(`${path}.new`);
  await file.write({ generation: 1, images: "owner", wanted: true });
  assert.deepEqual((await StateFile.open(path, VM)).state, file.state);
});
