/**
 * What a host notes of itself: nothing before there is something to note, and never what a later moment has
 * made untrue (I2).
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { StateFile, StateFileError } from "../../src/disk/state-file.ts";
import { BackupDisks } from "../../src/guardian/disks/backup-disks.ts";
import { OwnedDisks } from "../../src/guardian/disks/owned-disks.ts";
import { putAway, whatNext } from "../../src/guardian/primary/end.ts";
import { GuestEnd } from "../../src/guardian/primary/guest-end.ts";

const VM = "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10";

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "remus-records-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

async function backup(t: TestContext) {
  const directory = folder(t);
  const record = await StateFile.open(join(directory, "vm1.json"), VM);
  const durable: number[] = [];
  const failed: string[] = [];
  const disks = await BackupDisks.open({
    qmp: undefined as never,
    runDirectory: directory,
    disks: [],
    record,
    log: { folder: directory, vm: "vm1" },
    onFailed: (reason) => failed.push(reason),
    onDurable: (epoch) => durable.push(epoch),
  });
  return { record, disks, failed };
}

/** Until all that was under way has come to its end. */
const settled = async (record: StateFile) => {
  for (let turn = 0; turn < 5; turn++) await new Promise((next) => setImmediate(next));
  await (record as unknown as { writing: Promise<void> }).writing;
};

test("a caller whose first pass has not come changes no record, whatever generation it names", async (t) => {
  const { disks, record } = await backup(t);
  await record.write({ generation: 3, images: "replica", session: "before", durableEpoch: 7 });
  const { state } = record;
  disks.begin("stranger", 4_294_967_294);
  await settled(record);
  assert.deepEqual(record.state, state);
  disks.begin("primary", 4);
  await disks.firstPass();
  assert.deepEqual(
    [record.state?.images, record.state?.generation, record.state?.session],
    ["syncing", 4, "primary"],
  );
});

test("I2: a flush that is under way when this host takes over does not call the images a replica any more", async (t) => {
  const { disks, failed, record } = await backup(t);
  disks.begin("s", 1);
  await disks.firstPass();
  disks.committed(0);
  // The VM is this host's before the flush has come back.
  disks.claim(2);
  await settled(record);
  assert.deepEqual([record.state?.images, record.state?.generation], ["syncing", 2]);
  assert.deepEqual(failed, []);
});

test("the same flush, of a backup whose role is over", async (t) => {
  const { disks, record } = await backup(t);
  disks.begin("s", 1);
  await disks.firstPass();
  disks.committed(0);
  disks.close();
  await settled(record);
  assert.equal(record.state?.images, "syncing");
});

test("I2: a record never goes back to an earlier generation, whoever is late", async (t) => {
  const record = await StateFile.open(join(folder(t), "vm1.json"), VM);
  await record.write({ generation: 3, images: "syncing", session: "s" });
  await assert.rejects(record.write({ generation: 2, images: "owner" }), (error: Error) => {
    assert.ok(error instanceof StateFileError);
    assert.match(error.message, /"owner" of generation 2 is not noted: generation 3 is/);
    return true;
  });
  assert.equal(record.state?.images, "syncing");
  assert.equal((await StateFile.open(record.path, VM)).state?.images, "syncing");
});

async function owner(t: TestContext) {
  const directory = folder(t);
  const image = join(directory, "disk.raw");
  writeFileSync(image, "x");
  const record = await StateFile.open(join(directory, "vm1.json"), VM);
  const config = { runDirectory: directory, vm: { disks: [{ image, storage: "replicated" }] } };
  const environment = { images: [{ virtualBytes: 512 }] };
  const ears = { log: { info() {}, warn() {}, error() {} }, control: { publish() {} } };
  const disks = new OwnedDisks({ config, record, ...ears } as never, environment as never);
  const probe = await open(image, "r");
  const sync = t.mock.method(Object.getPrototypeOf(probe) as typeof probe, "sync");
  await probe.close();
  return { disks, record, sync, image };
}

test("when the VM ends, its images are put on stable storage", async (t) => {
  const { disks, sync } = await owner(t);
  await disks.putAway(1, true);
  assert.equal(sync.mock.callCount(), 1);
});

test("I4: a guest that ends soon after a takeover leaves disks from which it can be started again", async (t) => {
  const { disks, record } = await owner(t);
  await record.write({ generation: 2, images: "syncing", session: "s" });
  // Killed: what QEMU had not written is lost, and the images are a mixture.
  await disks.putAway(2, false);
  assert.equal(record.state?.images, "syncing");
  await disks.putAway(2, true);
  assert.equal(record.state?.images, "owner");
});

test("a guest that has ended leaves no protection on record once its backup has stood down, so its next start does not wait for that", async (t) => {
  const { disks, record } = await owner(t);
  const context = { log: { warn() {} } } as never;
  const ended = (phase: string, guestShutDown: boolean) =>
    whatNext({
      ...{ asked: false, disks, guestShutDown, context, session: "s" },
      state: { phase, generation: 2 } as never,
    });
  const noted = { generation: 2, images: "owner", session: "s", wanted: true } as const;
  await record.write(noted);
  // The backup may hold what is newer.
  for (const [phase, guestShutDown] of [
    ["stopping", true],
    ["ending", false],
  ] as const) {
    await ended(phase, guestShutDown);
    assert.equal(record.state?.session, "s", phase);
  }
  assert.deepEqual(await ended("ending", true), { kind: "exit", status: 0 });
  const { generation, images, session, wanted } = record.state!;
  assert.deepEqual({ generation, images, session, wanted }, { ...noted, session: undefined });
});

test("I4: with durability replicated, the backup lets go of its copy only once this host's disks have it all", async () => {
  const done: string[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const end = (relaxed: number[]) =>
    new GuestEnd({
      qemu: {} as never,
      disks: { relaxed, sync: () => promise.then(() => void done.push("synced")) },
      log: { info() {}, error() {} } as never,
      state: () => ({ phase: "protected" }) as never,
      feed: ({ type }) => void done.push(type),
    });
  end([]).begin("the guest has powered off");
  assert.deepEqual(done.splice(0), ["stop-asked"]);
  end([0]).begin("the guest has powered off");
  await new Promise((next) => setImmediate(next));
  assert.deepEqual(done, []);
  resolve();
  await new Promise((next) => setImmediate(next));
  assert.deepEqual(done, ["synced", "stop-asked"]);
});

test("what cannot be put away is told; a host whose VM is another's puts nothing away", async () => {
  const told: string[] = [];
  let asked = 0;
  const disks = {
    putAway: async () => {
      asked++;
      throw new Error("EIO: disk.raw");
    },
  };
  const log = { error: (text: string) => void told.push(text) } as never;
  const link = { close() {} };
  await putAway(disks, { phase: "superseded", generation: 2, planned: true }, false, log, link);
  assert.equal(asked, 0);
  await putAway(disks, { phase: "unprotected", generation: 2 }, true, log, link);
  assert.match(told[0]!, /may be lost if this host loses power: EIO: disk\.raw/);
});

test("I4: the backup of a VM that has died goes on with it before this host's slow disks are put away; one of a guest that has ended waits for them", async () => {
  const done: string[] = [];
  const disks = { putAway: async () => void done.push("put away") };
  const link = { close: () => void done.push("link closed") };
  const log = { error() {} } as never;
  const state = { phase: "protected", generation: 2 } as never;
  await putAway(disks, state, false, log, link);
  assert.deepEqual(done.splice(0), ["link closed", "put away"]);
  await putAway(disks, state, true, log, link);
  assert.deepEqual(done, ["put away"]);
});

test("I4: a guest that ends while its disks cannot be settled leaves disks from which it can be started again", async (t) => {
  const { disks, record } = await owner(t);
  await record.write({ generation: 2, images: "syncing", session: "s" });
  const qmp = { execute: async (command: string) => Promise.reject(new Error(`no ${command}`)) } as never;
  let here = true;
  t.after(() => {
    here = false;
  });
  const settled = disks.settle(qmp, 2, { wanted: () => true, here: () => here });
  await disks.putAway(2, false);
  assert.equal(record.state?.images, "syncing", "killed: the images are a mixture");
  await disks.putAway(2, true);
  assert.equal(record.state?.images, "owner");
  here = false;
  await settled;
});
