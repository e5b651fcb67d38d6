import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { ReplicationMessage } from "../../src/codec/replication.ts";
import { CheckpointEncoder, DiskDigest } from "../../src/codec/replication-checkpoint.ts";
import { PageFrameBuffers } from "../../src/codec/replication-pages.ts";
import { ReplicationParser } from "../../src/codec/replication-parser.ts";
import { HeldCheckpoints } from "../../src/guardian/backup/held-checkpoints.ts";
import type { BackupDisks } from "../../src/guardian/disks/backup-disks.ts";
import { BackupImages } from "../../src/memory/backup-images.ts";
import { CheckpointTooLarge } from "../../src/memory/checkpoint-buffer.ts";
import { memoryBounds } from "../../src/memory/memory-bounds.ts";
import { HELLO, helloSample, IDS, LAYOUT, layoutSample, pageList, wire } from "./replication-samples.ts";

/** A checkpoint of two pages, as a backup receives it. */
function messages(epoch: number): ReplicationMessage[] {
  const encoder = new CheckpointEncoder(IDS, epoch, new PageFrameBuffers(0));
  const pages = pageList([
    { raw: true, block: 0, page: 1 },
    { raw: true, block: 0, page: 2 },
  ]);
  const frames = [
    ...encoder.pages(pages),
    ...encoder.deviceState(Buffer.from("device state")),
    encoder.end(new DiskDigest().summary),
  ];
  const received: ReplicationMessage[] = [];
  const parser = new ReplicationParser({
    receiver: "backup",
    vmId: IDS.vmId,
    onMessage: (message) => received.push(message),
  });
  parser.push(wire([helloSample(HELLO), layoutSample(LAYOUT), ...frames.map((frame) => ({ frame }))]));
  return received.slice(2);
}

/** With disks that take nothing until they are let. */
async function setUp(
  t: TestContext,
  bounds: { checkpointBytes: number; commitBytes: number; totalBytes: number },
  prove: () => Promise<void> = async () => {},
) {
  const directory = mkdtempSync(join(tmpdir(), "remus-held-"));
  const ram = LAYOUT.blocks[0]!;
  const images = await BackupImages.create(join(directory, "vm1.ram"), ram.name, ram.bytes);
  t.after(() => {
    images.discard();
    rmSync(directory, { recursive: true });
  });
  const stuck = Promise.withResolvers<boolean>();
  const whole: number[] = [];
  const committed: number[] = [];
  const unfit: string[] = [];
  const trials: string[] = [];
  const disks = {
    apply: () => stuck.promise,
    committed: () => {},
    firstPass: async () => {},
  } as unknown as BackupDisks;
  const held: HeldCheckpoints = new HeldCheckpoints({
    images,
    disks,
    hasDisks: true,
    bounds,
    onWhole: (epoch) => {
      whole.push(epoch);
      held.commit();
    },
    onCommitted: (epoch) => committed.push(epoch),
    proof: { begin: () => trials.push("begin"), prove, drop: () => trials.push("drop") },
    onFailed: (reason) => unfit.push(reason),
    told: { log: {} as never, control: { publish() {} } },
    isOnlyCopy: () => false,
    onApplied: () => {},
  });
  held.intake.take({ type: "layout", layout: LAYOUT } as ReplicationMessage);
  return { held, whole, committed, unfit, trials, go: () => stuck.resolve(true) };
}

test("I6: checkpoints that are not in the images never take more than is reckoned with; one too many is refused, and forgotten when they are", async (t) => {
  const one = messages(1)
    .filter((message) => message.type === "pages")
    .reduce((sum, { pages }) => sum + pages.source.byteLength, 0);
  const bounds = { checkpointBytes: 2 * one, commitBytes: one, totalBytes: 4 * one };
  const { held, whole, committed, go } = await setUp(t, bounds);
  for (const message of messages(0)) held.intake.take(message);
  await new Promise(setImmediate);
  assert.deepEqual(whole, [0]);
  const refused = (): boolean => {
    for (let epoch = 1; epoch < 20; epoch++)
      try {
        for (const message of messages(epoch)) held.intake.take(message);
      } catch (error) {
        assert.ok(error instanceof CheckpointTooLarge, String(error));
        assert.ok(epoch > 3, `checkpoint ${epoch} had room`);
        return true;
      } finally {
        assert.ok(held.heldBytes <= bounds.totalBytes + one, `${held.heldBytes} bytes are held`);
      }
    return false;
  };
  assert.ok(refused());
  assert.ok(whole.length < 4, "nothing is acknowledged above limits.commitMiB");
  held.forget();
  assert.equal(held.heldBytes, 0);
  go();
  held.intake.take({ type: "layout", layout: LAYOUT } as ReplicationMessage);
  for (let epoch = 0; epoch < 20; epoch++) {
    for (const message of messages(epoch)) held.intake.take(message);
    while (committed.at(-1) !== epoch) await new Promise(setImmediate);
  }
  assert.equal(held.heldBytes, 0);
});

test("checkpoint 0 is not called whole before it was loaded on trial, nor is any behind it; one that does not load is told, once", async (t) => {
  const bounds = { checkpointBytes: 1 << 20, commitBytes: 1 << 20, totalBytes: 4 << 20 };
  let trial = Promise.withResolvers<void>();
  const { held, whole, unfit, trials } = await setUp(t, bounds, () => trial.promise);
  assert.deepEqual(trials, ["begin"]);
  const take = async (epoch: number) => {
    for (const message of messages(epoch)) held.intake.take(message);
    await new Promise(setImmediate);
  };
  const anew = () => {
    held.forget();
    trial = Promise.withResolvers<void>();
    held.intake.take({ type: "layout", layout: LAYOUT } as ReplicationMessage);
  };
  await take(0);
  await take(1);
  assert.deepEqual(whole, []);
  trial.resolve();
  await new Promise(setImmediate);
  assert.deepEqual(whole, [0, 1]);

  anew();
  await take(0);
  trial.reject(new Error("Unknown savevm section"));
  await new Promise(setImmediate);
  assert.deepEqual(unfit, ["Unknown savevm section"]);

  // A session that ends meanwhile: what becomes of its trial is nobody's affair.
  for (const outcome of ["resolve", "reject"] as const) {
    anew();
    await take(0);
    const { [outcome]: settle } = trial;
    anew();
    settle(new Error("killed") as never);
    await new Promise(setImmediate);
  }
  assert.deepEqual(whole, [0, 1]);
  assert.equal(unfit.length, 1);
});

test("I6: room is reckoned for two checkpoints of all of a VM's memory, and for what may lie before and beside them", () => {
  const MIB = 2 ** 20;
  const limits = { stagingMiB: 64, commitMiB: 256, diskMiB: 64 };
  const bounds = memoryBounds({ memoryMiB: 1000 }, limits);
  assert.deepEqual(bounds, {
    checkpointBytes: (1100 + 128 + 256) * MIB,
    commitBytes: 256 * MIB,
    totalBytes: (2 * (1100 + 128 + 256) + 64 + 256) * MIB,
  });
  assert.equal(memoryBounds({ memoryMiB: 1000 }, { ...limits, checkpointMiB: 10 }).checkpointBytes, 10 * MIB);
});
