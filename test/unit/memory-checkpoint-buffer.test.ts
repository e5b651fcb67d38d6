import assert from "node:assert/strict";
import { test } from "node:test";
import type { MessageOf, ReplicationMessage } from "../../src/codec/replication.ts";
import { DISK_WRITE, DISK_ZERO, ProtocolError } from "../../src/codec/replication.ts";
import { CheckpointEncoder, DiskDigest } from "../../src/codec/replication-checkpoint.ts";
import { encodeDisk } from "../../src/codec/replication-disk.ts";
import { PageFrameBuffers } from "../../src/codec/replication-pages.ts";
import { ReplicationParser } from "../../src/codec/replication-parser.ts";
import { CheckpointBuffer, CheckpointTooLarge } from "../../src/memory/checkpoint-buffer.ts";
import {
  changesOf,
  diskEntry,
  HELLO,
  helloSample,
  IDS,
  LAYOUT,
  layoutSample,
  pageList,
  pagesOf,
  wire,
} from "./replication-samples.ts";

const DEVICE = Buffer.from("device state");
const LISTS = [
  [
    { raw: true, block: 0, page: 1 },
    { raw: false, block: 0, page: 2 },
  ],
  [{ raw: true, block: 1, page: 7 }],
] as const;
const CHANGES = [
  [diskEntry(DISK_WRITE, 0, 4096, 700), diskEntry(DISK_ZERO, 0, 4096, 512)],
  [diskEntry(DISK_WRITE, 3, 0, 512)],
] as const;

/** The messages of a checkpoint, as a backup receives them. */
function messages(epoch: number): ReplicationMessage[] {
  const encoder = new CheckpointEncoder(IDS, epoch, new PageFrameBuffers(0));
  const frames = LISTS.flatMap((pages) => [...encoder.pages(pageList(pages))]);
  const digest = new DiskDigest();
  const disk = CHANGES.map((entries) => {
    const frame = encodeDisk(IDS, epoch, entries);
    digest.add(frame.payloadCrc, entries.length);
    return frame;
  });
  const all = [disk[0]!, ...frames, disk[1]!, ...encoder.deviceState(DEVICE), encoder.end(digest.summary)];
  const received: ReplicationMessage[] = [];
  const parser = new ReplicationParser({
    receiver: "backup",
    vmId: IDS.vmId,
    onMessage: (message) => received.push(message),
  });
  parser.push(wire([helloSample(HELLO), layoutSample(LAYOUT), ...all.map((frame) => ({ frame }))]));
  return received.slice(2);
}

/** Puts messages into a buffer as the guardian does, and finishes. */
function assemble(buffer: CheckpointBuffer, all: readonly ReplicationMessage[]) {
  for (const message of all) {
    if (message.type === "pages") buffer.keep(message);
    else if (message.type === "disk") buffer.keepDisk(message);
    else if (message.type === "device-state") buffer.addDeviceState(message);
  }
  return buffer.finish(all.at(-1) as MessageOf<"checkpoint-end">);
}

/** For one checkpoint that may take so much. */
const room = (limitBytes: number, leftBytes = () => Number.POSITIVE_INFINITY) => ({ limitBytes, leftBytes });

test("I2: with all of its messages a checkpoint is whole: every page, the device state, the changes of disks, the epoch", () => {
  const whole = assemble(new CheckpointBuffer(5, room(1 << 20)), messages(5));
  assert.equal(whole.epoch, 5);
  assert.deepEqual(Buffer.from(whole.device), DEVICE);
  assert.deepEqual(
    whole.pages.flatMap(pagesOf),
    LISTS.flatMap((pages) => pagesOf(pageList(pages))),
  );
  assert.deepEqual(changesOf(whole.disk), changesOf(CHANGES.flat()));
  assert.ok(whole.bytes >= 2 * 4096 + DEVICE.length + 700 + 512);
});

test("I2: with any one message missing, doubled or moved it is no checkpoint", () => {
  const all = messages(5);
  const last = all.length - 1;
  const wrongs: [string, ReplicationMessage[]][] = [
    ["swapped", [all[0]!, all[2]!, all[1]!, ...all.slice(3)]],
  ];
  wrongs.push(["disk swapped", [all[3]!, ...all.slice(1, 3), all[0]!, ...all.slice(4)]]);
  for (let index = 0; index < last; index++) {
    wrongs.push([`without ${index}`, all.filter((_, other) => other !== index)]);
    wrongs.push([`with ${index} twice`, all.flatMap((one, other) => (other === index ? [one, one] : [one]))]);
  }
  for (const [what, wrong] of wrongs) {
    const broken = (error: Error) => error instanceof ProtocolError && error.code === "bad-checkpoint";
    assert.throws(() => assemble(new CheckpointBuffer(5, room(1 << 20)), wrong), broken, what);
  }
});

test("I2: a message of another checkpoint is refused when it comes", () => {
  const [first, second] = [messages(5), messages(6)];
  const buffer = new CheckpointBuffer(5, room(1 << 20));
  buffer.keep(first[1] as MessageOf<"pages">);
  assert.throws(() => buffer.keep(second[2] as MessageOf<"pages">), /epoch is 6, expected 5/);
  assert.throws(() => buffer.keepDisk(second[0] as MessageOf<"disk">), /disk epoch is 6, expected 5/);
  assert.throws(() => buffer.countDisk(second[0] as MessageOf<"disk">), /disk epoch is 6, expected 5/);
});

test("pages and changes of disks of a first pass are counted and not kept", () => {
  const buffer = new CheckpointBuffer(0, room(1 << 20));
  const all = messages(0);
  for (const message of all) {
    if (message.type === "pages") buffer.count(message);
    else if (message.type === "disk") buffer.countDisk(message);
    else if (message.type === "device-state") buffer.addDeviceState(message);
  }
  const whole = buffer.finish(all.at(-1) as MessageOf<"checkpoint-end">);
  assert.deepEqual(whole.pages, []);
  assert.deepEqual(whole.disk, []);
  assert.equal(whole.bytes, DEVICE.length);
});

test("I6: a checkpoint that needs more memory than there is for it is refused, by pages, device state or disks", () => {
  const all = messages(5);
  const need = assemble(new CheckpointBuffer(5, room(1 << 20)), all).bytes;
  assert.equal(assemble(new CheckpointBuffer(5, room(need)), all).bytes, need);
  for (const limit of [need - 1, 4096, 10])
    assert.throws(
      () => assemble(new CheckpointBuffer(5, room(limit)), all),
      (error: Error) =>
        error instanceof CheckpointTooLarge &&
        error.message.includes(`${limit} bytes that limits.checkpointMiB`),
    );
});

test("I6: a checkpoint is refused, too, when those that are here already leave it no room", () => {
  const all = messages(5);
  const need = assemble(new CheckpointBuffer(5, room(1 << 20)), all).bytes;
  const beside = (others: number, total: number) => {
    const buffer: CheckpointBuffer = new CheckpointBuffer(
      5,
      room(1 << 20, () => total - others - buffer.bytes),
    );
    return assemble(buffer, all);
  };
  assert.equal(beside(1000, need + 1000).bytes, need);
  assert.throws(() => beside(1001, need + 1000), CheckpointTooLarge);
});
