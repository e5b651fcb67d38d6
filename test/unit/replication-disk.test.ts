import assert from "node:assert/strict";
import { test } from "node:test";
import {
  DISK_DISCARD,
  DISK_PAYLOAD_MAX,
  DISK_WRITE,
  DISK_ZERO,
  type DiskEntry,
  HEADER_BYTES,
  MAX_DISK_DATA_BYTES,
  MAX_DISK_ENTRIES,
  type MessageType,
  ProtocolError,
  type ReplicationMessage,
} from "../../src/codec/replication.ts";
import { CheckpointDigest, CheckpointEncoder, DiskDigest } from "../../src/codec/replication-checkpoint.ts";
import { encodeDisk, encodeHashAsk, encodeHashes } from "../../src/codec/replication-disk.ts";
import * as encode from "../../src/codec/replication-encode.ts";
import { PageFrameBuffers } from "../../src/codec/replication-pages.ts";
import { ReplicationParser } from "../../src/codec/replication-parser.ts";
import {
  changesOf,
  diskEntry,
  HELLO,
  helloSample,
  IDS,
  LAYOUT,
  layoutSample,
} from "./replication-samples.ts";

/** What a backup receives after HELLO, or a primary. */
function received(frames: Iterable<encode.Frame>, receiver: "backup" | "primary" = "backup") {
  const messages: ReplicationMessage[] = [];
  const onMessage = (message: ReplicationMessage) => messages.push(message);
  const parser = new ReplicationParser({ receiver, vmId: IDS.vmId, onMessage });
  const prologue = receiver === "backup" ? [helloSample(HELLO).frame] : [];
  for (const frame of [...prologue, ...frames]) for (const part of frame.parts) parser.push(part);
  return messages.slice(prologue.length);
}

function refused(type: MessageType, payload: Uint8Array, code = "bad-payload"): string {
  try {
    received([encode.frame(type, IDS, 0, [payload])], type === "hashes" ? "primary" : "backup");
  } catch (error) {
    assert.ok(error instanceof ProtocolError, String(error));
    assert.equal(error.code, code, error.message);
    return error.message;
  }
  return assert.fail(`${type} was taken`);
}

/** A DISK payload as given: entries [disk, kind, flags, length, offset] and bytes of data. */
function rawDisk(count: number, entries: readonly (readonly (number | bigint)[])[], data: number): Buffer {
  const payload = Buffer.alloc(4 + entries.length * 16 + data);
  payload.writeUInt32BE(count, 0);
  entries.forEach(([disk, kind, flags, length, offset], i) => {
    const at = 4 + 16 * i;
    payload.writeUInt16BE(Number(disk), at);
    payload.writeUInt8(Number(kind), at + 2);
    payload.writeUInt8(Number(flags), at + 3);
    payload.writeUInt32BE(Number(length), at + 4);
    payload.writeBigUInt64BE(BigInt(offset!), at + 8);
  });
  return payload;
}

const WRITE = [0, DISK_WRITE, 0, 512, 1024];
const ZERO = [0, DISK_ZERO, 0, 512, 1024];
const DISCARD = [0, DISK_DISCARD, 0, 512, 1024];

test("DISK may come before LAYOUT: the first pass of a disk need not wait for that of RAM", () => {
  const entries = [diskEntry(DISK_WRITE, 0, 4096, 700), diskEntry(DISK_DISCARD, 3, 0, 5 * 1024 + 512)];
  const [message] = received([encodeDisk(IDS, 0, entries)]);
  assert.ok(message?.type === "disk");
  assert.deepEqual(changesOf(message.entries), changesOf(entries));
});

test("DISK: the data of a write lies in the payload, which is counted", () => {
  const frame = encodeDisk(IDS, 9, [diskEntry(DISK_WRITE, 0, 0, 512), diskEntry(DISK_WRITE, 0, 512, 1024)]);
  const [message] = received([frame]);
  assert.ok(message?.type === "disk");
  assert.equal(message.payloadBytes, frame.byteLength - HEADER_BYTES);
  const [first, second] = message.entries;
  assert.equal(first!.data!.buffer, second!.data!.buffer);
  assert.equal(second!.data!.byteOffset - first!.data!.byteOffset, 512);
});

test("DISK: a count that does not match the entries or the data is refused", () => {
  assert.match(refused("disk", rawDisk(0, [ZERO], 0)), /disk count is 0, expected 1\.\.1024/);
  assert.match(refused("disk", rawDisk(1025, [ZERO], 0)), /disk count is 1025/);
  assert.match(refused("disk", rawDisk(2, [ZERO], 0)), /entries within 20 bytes/);
  assert.match(refused("disk", rawDisk(1, [WRITE], 511)), /entry 0 length is 512, expected at most the 511/);
  assert.match(refused("disk", rawDisk(2, [WRITE, WRITE], 1023)), /entry 1 length is 512, expected at most/);
  assert.match(refused("disk", rawDisk(1, [WRITE], 513)), /payload length is 533, expected 532/);
  assert.match(refused("disk", rawDisk(1, [ZERO], 512)), /payload length is 532, expected 20/);
  assert.match(refused("disk", rawDisk(1, [DISCARD], 1)), /payload length is 21, expected 20/);
  const many = Array.from({ length: 3 }, () => [0, DISK_WRITE, 0, 512, 0]);
  assert.equal(received([encode.frame("disk", IDS, 0, [rawDisk(3, many, 3 * 512)])]).length, 1);
});

test("DISK: more data than a message may have is refused, also when the payload is within its cap", () => {
  const half = MAX_DISK_DATA_BYTES / 2;
  const entries = [
    [0, DISK_WRITE, 0, half, 0],
    [0, DISK_WRITE, 0, half + 1, 0],
  ];
  assert.match(
    refused("disk", rawDisk(2, entries, 2 * half + 1)),
    /data length is 1048577, expected at most/,
  );
});

test("DISK: unknown kinds, flags, empty entries and numbers beyond 53 bits are refused", () => {
  assert.match(refused("disk", rawDisk(1, [[0, 3, 0, 1, 0]], 0)), /entry 0 kind is 3, expected 0 \(write\)/);
  assert.match(refused("disk", rawDisk(2, [ZERO, [0, 1, 128, 1, 0]], 0)), /entry 1 flags is 128, expected 0/);
  for (const kind of [DISK_WRITE, DISK_ZERO, DISK_DISCARD])
    assert.match(refused("disk", rawDisk(1, [[0, kind, 0, 0, 0]], 0)), /length is 0, expected 1 or more/);
  const far = [0, DISK_ZERO, 0, 1, 2n ** 53n - 1n];
  assert.match(refused("disk", rawDisk(1, [far], 0)), /entry 0 offset .* below 2\^53/);
});

test("I2: DISK: an entry outside its disk, or of a disk that HELLO does not name, is refused", () => {
  const outside = (entry: readonly number[]) => refused("disk", rawDisk(2, [ZERO, entry], 0), "bad-disk");
  const bytes = HELLO.disks[1]!.bytes;
  assert.match(outside([1, DISK_ZERO, 0, 1, 0]), /disk entry 1 disk is 1, expected a disk of HELLO/);
  assert.match(
    outside([3, DISK_ZERO, 0, 1, bytes]),
    /entry 1 offset is 5632, expected 1 bytes to end within/,
  );
  assert.match(outside([3, DISK_ZERO, 0, 513, bytes - 512]), /entry 1 offset is 5120/);
  assert.match(outside([3, DISK_DISCARD, 0, 2 ** 32 - 1, 0]), /entry 1 offset is 0/);
  assert.equal(received([encodeDisk(IDS, 0, [diskEntry(DISK_ZERO, 3, bytes - 512, 512)])]).length, 1);
});

test("DISK: the largest message fits its cap exactly", () => {
  const bytes = MAX_DISK_DATA_BYTES / MAX_DISK_ENTRIES;
  const entries = Array.from({ length: MAX_DISK_ENTRIES }, (_, i) =>
    diskEntry(DISK_WRITE, 0, i * 7000, bytes),
  );
  const frame = encodeDisk(IDS, 3, entries);
  assert.equal(frame.byteLength, HEADER_BYTES + DISK_PAYLOAD_MAX);
  const [message] = received([frame]);
  assert.ok(message?.type === "disk");
  assert.deepEqual(changesOf(message.entries), changesOf(entries));
});

test("DISK: entries that do not fit a message are a bug of ours, told before anything is sent", () => {
  const wrong = (sentence: RegExp, ...entries: DiskEntry[]) =>
    assert.throws(
      () => encodeDisk(IDS, 1, entries),
      (error: Error) => error instanceof RangeError && sentence.test(error.message),
    );
  const zero = { disk: 0, kind: DISK_ZERO, offset: 0, length: 1 } as const;
  wrong(/0 entries/);
  wrong(/1025 entries/, ...Array<DiskEntry>(1025).fill(zero));
  wrong(/entry 0: 0 bytes/, { ...zero, length: 0 });
  wrong(/4294967296 bytes/, { ...zero, length: 2 ** 32 });
  wrong(/53 bits/, { ...zero, offset: -1 });
  wrong(/53 bits/, { ...zero, offset: Number.MAX_SAFE_INTEGER });
  wrong(/16 bits/, { ...zero, disk: 65536 });
  wrong(/kind 0 of 1 bytes with no bytes/, { ...zero, kind: DISK_WRITE });
  wrong(/kind 0 of 1 bytes with 2 bytes/, { ...zero, kind: DISK_WRITE, data: new Uint8Array(2) });
  wrong(/kind 1 of 1 bytes with 1 bytes/, { ...zero, data: new Uint8Array(1) });
  wrong(
    /1048577 bytes of data, at most 1048576/,
    diskEntry(DISK_WRITE, 0, 0, MAX_DISK_DATA_BYTES),
    diskEntry(DISK_WRITE, 0, 0, 1),
  );
});

test("HASH_ASK and HASHES: block sizes, counts and places that make no sense are refused", () => {
  const range = { disk: 0, blockBytes: 4096, offset: 0, count: 1 };
  const ask = (change: (payload: Buffer) => void, code?: string) => {
    const payload = Buffer.from(encodeHashAsk(IDS, range).parts[1]!);
    change(payload);
    return refused("hash-ask", payload, code);
  };
  assert.match(
    ask((p) => p.writeUInt16BE(1, 2)),
    /hash-ask reserved is 1/,
  );
  for (const size of [0, 256, 4095, 6144, 2 ** 21, 2 ** 31])
    assert.match(
      ask((p) => p.writeUInt32BE(size, 4)),
      new RegExp(`hash-ask block size is ${size}, expected a power of two`),
    );
  assert.match(
    ask((p) => p.writeBigUInt64BE(2n ** 53n, 8)),
    /hash-ask offset .* below 2\^53/,
  );
  assert.match(
    ask((p) => p.writeUInt32BE(0, 16)),
    /hash-ask count is 0/,
  );
  assert.match(
    ask((p) => p.writeUInt32BE(4097, 16)),
    /hash-ask count is 4097, expected 1\.\.4096/,
  );
  assert.match(
    ask((p) => p.writeUInt16BE(1, 0), "bad-disk"),
    /hash-ask disk is 1, expected a disk of HELLO/,
  );
  assert.match(
    ask((p) => {
      p.writeUInt16BE(3, 0);
      p.writeUInt32BE(3, 16);
    }, "bad-disk"),
    /hash-ask offset is 0, expected 8193 bytes to end within the 5632 of disk 3/,
  );
  // The last block may be cut short by the end of the disk.
  assert.equal(received([encodeHashAsk(IDS, { ...range, disk: 3, count: 2 })]).length, 1);

  const hashes = encodeHashes(IDS, { ...range, count: 2 }, new Uint8Array(32));
  const payload = Buffer.concat(hashes.parts.slice(1));
  assert.match(refused("hashes", payload.subarray(0, 51)), /hashes contents is "32 bytes"/);
  assert.match(refused("hashes", Buffer.concat([payload, Buffer.alloc(1)])), /1 bytes too long/);
  assert.throws(() => encodeHashes(IDS, range, new Uint8Array(32)), /32 bytes, expected 16 for 1 blocks/);
  assert.throws(() => encodeHashAsk(IDS, { ...range, blockBytes: 100 }), RangeError);
  assert.throws(() => encodeHashAsk(IDS, { ...range, count: 0 }), RangeError);
});

test("refusals in words: without a sentence they are refused themselves", () => {
  for (const type of ["handover-refused", "unable"] as const) {
    const take = (text: string) => () =>
      received([encode.frame(type, IDS, 0, [Buffer.from(text)])], "primary");
    take('{"message":"full","stoodDown":true}')();
    assert.throws(
      take('{"message":7,"stoodDown":true}'),
      new RegExp(`${type} message is "7", expected a string`),
    );
    assert.throws(take("full"), ProtocolError);
    if (type === "handover-refused")
      assert.throws(take('{"message":"full"}'), /stoodDown is "missing", expected true or false/);
  }
});

/** The frames of checkpoint 12: two DISK messages, sent before its pages, and one of epoch 13 among those. */
function frames() {
  const digest = new DiskDigest();
  const disk = [
    [diskEntry(DISK_WRITE, 0, 0, 512), diskEntry(DISK_ZERO, 0, 512, 512)],
    [diskEntry(DISK_DISCARD, 3, 0, 512)],
  ].map((entries) => {
    const frame = encodeDisk(IDS, 12, entries);
    digest.add(frame.payloadCrc, entries.length);
    return frame;
  });
  const pages = new CheckpointEncoder(IDS, 12, new PageFrameBuffers(0));
  const state = pages.deviceState(Buffer.from("state"));
  return { disk, rest: [...state, pages.end(digest.summary)] };
}

function check(all: readonly encode.Frame[]): void {
  const digest = new CheckpointDigest(12);
  for (const message of received([layoutSample(LAYOUT).frame, ...all])) {
    if (message.type === "disk" || message.type === "device-state") digest.addMessage(message);
    if (message.type === "checkpoint-end") digest.check(message);
  }
}

test("I2: a checkpoint with a DISK message lost, doubled, moved or of another epoch is not whole", () => {
  const { disk, rest } = frames();
  const [first, second] = disk as [encode.Frame, encode.Frame];
  check([first, second, ...rest]);
  // Where they lie among the other messages does not matter.
  check([first, rest[0]!, second, ...rest.slice(1)]);
  assert.throws(() => check([second, ...rest]), /checkpoint-end disk entries is 3, expected 1 as received/);
  assert.throws(() => check([first, first, second, ...rest]), /disk entries is 3, expected 5/);
  assert.throws(() => check([second, first, ...rest]), /checkpoint-end disk digest is "0x/);
  const other = encodeDisk(IDS, 13, [diskEntry(DISK_ZERO, 0, 0, 1)]);
  assert.throws(() => check([first, other, second, ...rest]), /disk epoch is 13, expected 12/);
});
