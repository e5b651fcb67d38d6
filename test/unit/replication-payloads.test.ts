import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  HEADER_BYTES,
  type Layout,
  MAX_PAGES_PER_MESSAGE,
  type MessageType,
  PAGE_BYTES,
  PAGES_PAYLOAD_MAX,
  ProtocolError,
  type ReplicationMessage,
} from "../../src/codec/replication.ts";
import { CheckpointDigest, CheckpointEncoder } from "../../src/codec/replication-checkpoint.ts";
import * as encode from "../../src/codec/replication-encode.ts";
import { encodePages, PageFrameBuffers } from "../../src/codec/replication-pages.ts";
import { ReplicationParser } from "../../src/codec/replication-parser.ts";
import * as samples from "./replication-samples.ts";

const { IDS, LAYOUT, HELLO } = samples;

/** What a backup receives when a primary sends these payloads, framed rightly, after HELLO and LAYOUT. */
function received(frames: Iterable<encode.Frame>): ReplicationMessage[] {
  const messages: ReplicationMessage[] = [];
  const parser = new ReplicationParser({
    receiver: "backup",
    vmId: IDS.vmId,
    onMessage: (m) => messages.push(m),
  });
  const start = [encode.encodeHello(IDS, HELLO), encode.encodeLayout(IDS, LAYOUT)];
  for (const frame of [...start, ...frames]) for (const part of frame.parts) parser.push(part);
  return messages.slice(2);
}

function refused(type: MessageType, payload: Uint8Array, epoch = 0): string {
  try {
    received([encode.frame(type, IDS, epoch, [payload])]);
  } catch (error) {
    assert.ok(error instanceof ProtocolError, String(error));
    assert.ok(error.code === "bad-payload" || error.code === "bad-page", error.code);
    return error.message;
  }
  return assert.fail(`${type} was taken`);
}

/** A PAGES payload as given: entries [block, encoding, reserved, page] and bytes of contents. */
function rawPages(count: number, entries: readonly number[][], contents: number): Buffer {
  const payload = Buffer.alloc(4 + entries.length * 8 + contents);
  payload.writeUInt32BE(count, 0);
  entries.forEach(([block, encoding, reserved, page], i) => {
    payload.writeUInt16BE(block!, 4 + i * 8);
    payload.writeUInt8(encoding!, 6 + i * 8);
    payload.writeUInt8(reserved!, 7 + i * 8);
    payload.writeUInt32BE(page!, 8 + i * 8);
  });
  return payload;
}

const RAW = [0, 0, 0, 1];
const ZERO = [0, 1, 0, 2];

test("PAGES: a count that does not match the entries or the contents is refused", () => {
  assert.match(refused("pages", rawPages(0, [ZERO], 0)), /pages count is 0, expected 1\.\.256/);
  assert.match(refused("pages", rawPages(257, [RAW], PAGE_BYTES)), /pages count is 257/);
  assert.match(refused("pages", rawPages(2 ** 32 - 1, [RAW], PAGE_BYTES)), /pages count is 4294967295/);
  assert.match(refused("pages", rawPages(2, [ZERO], 0)), /entries within 12 bytes/);
  assert.match(refused("pages", rawPages(1, [RAW], PAGE_BYTES - 1)), /payload length is 4107, expected 4108/);
  assert.match(refused("pages", rawPages(1, [RAW], PAGE_BYTES + 1)), /payload length is 4109, expected 4108/);
  assert.match(refused("pages", rawPages(1, [ZERO], PAGE_BYTES)), /payload length is 4108, expected 12/);
  // Entries that would read page contents as entries, and the other way round.
  assert.match(
    refused("pages", rawPages(1, [RAW, RAW], PAGE_BYTES)),
    /payload length is 4116, expected 4108/,
  );
  assert.match(refused("pages", rawPages(3, [RAW, RAW], 2 * PAGE_BYTES)), /payload length|encoding/);
});

test("PAGES: encodings kept for later and reserved bytes are refused", () => {
  assert.match(
    refused("pages", rawPages(1, [[0, 2, 0, 1]], PAGE_BYTES)),
    /entry 0 encoding is 2, expected 0 \(raw\)/,
  );
  assert.match(refused("pages", rawPages(1, [[0, 255, 0, 1]], 0)), /encoding is 255/);
  assert.match(refused("pages", rawPages(2, [ZERO, [0, 1, 9, 1]], 0)), /entry 1 reserved is 9, expected 0/);
});

test("I2: PAGES: a page outside its block or of an unknown block is refused", () => {
  assert.match(
    refused("pages", rawPages(1, [[0, 1, 0, 65536]], 0)),
    /page number is 65536, expected below 65536/,
  );
  assert.match(refused("pages", rawPages(2, [ZERO, [1, 1, 0, 4096]], 0)), /entry 1 page number is 4096/);
  assert.match(
    refused("pages", rawPages(1, [[2, 1, 0, 0]], 0)),
    /block is 2, expected a block of the layout/,
  );
  assert.equal(received([encode.frame("pages", IDS, 0, [rawPages(1, [[900, 1, 0, 31]], 0)])]).length, 1);
});

test("PAGES: the largest message fits its cap exactly", () => {
  const pages = Array.from({ length: MAX_PAGES_PER_MESSAGE }, (_, page) => ({ raw: true, block: 0, page }));
  const frame = encodePages(IDS, 3, samples.pageList(pages), 0, pages.length, new PageFrameBuffers().take());
  assert.equal(frame.byteLength, HEADER_BYTES + PAGES_PAYLOAD_MAX);
  const [message] = received([frame]);
  assert.ok(message?.type === "pages");
  assert.deepEqual(samples.pagesOf(message.pages), samples.pagesOf(samples.pageList(pages)));
});

test("PAGES: a list that does not hold what it says is a bug of ours, told before anything is sent", () => {
  const list = samples.pageList([{ raw: true, block: 0, page: 1 }]);
  const buffer = new PageFrameBuffers().take();
  assert.throws(() => encodePages(IDS, 1, list, 0, 0, buffer), RangeError);
  assert.throws(() => encodePages(IDS, 1, list, 0, 2, buffer), RangeError);
  assert.throws(
    () => encodePages(IDS, 1, { ...list, encodings: Uint8Array.of(2) }, 0, 1, buffer),
    /encoding 2/,
  );
  const outside = { ...list, positions: Uint32Array.of(1) };
  assert.throws(() => encodePages(IDS, 1, outside, 0, 1, buffer), /position 1 in a source of 4096 bytes/);
  assert.throws(() => encodePages(IDS, 1, list, 0, 1, Buffer.alloc(5000)), /buffer of 5000 bytes/);
});

test("LAYOUT: truncated anywhere, or too long, is refused", () => {
  const whole = encode.encodeLayout(IDS, LAYOUT).parts[1]!;
  for (let length = 8; length < whole.length; length++) refused("layout", whole.subarray(0, length));
  assert.match(refused("layout", Buffer.concat([whole, Buffer.alloc(3)])), /3 bytes too long/);
});

test("LAYOUT: doubled ids and names, odd lengths and too many blocks are refused", () => {
  const [first, second] = LAYOUT.blocks as [Layout["blocks"][0], Layout["blocks"][0]];
  const layout = (...blocks: Layout["blocks"]): Layout => ({
    hypervisor: "qemu",
    header: new Uint8Array(0),
    blocks,
  });
  const bytes = (value: Layout): Buffer => Buffer.from(encode.encodeLayout(IDS, value).parts[1]!);
  const doubledId = bytes(layout(first, second));
  doubledId.writeUInt16BE(first.id, doubledId.length - second.name.length - 11);
  assert.match(refused("layout", doubledId), /block id is 0, expected each id once/);
  assert.match(
    refused("layout", bytes(layout(first, { ...first, id: 9 }))),
    /block name is "pc.ram", expected each/,
  );
  const odd = bytes(layout(first));
  odd[odd.length - 1] = 1;
  assert.match(refused("layout", odd), /pc\.ram length is 268435457, expected a multiple of 4096/);
  const huge = bytes(layout(first));
  huge.fill(0xff, huge.length - 8, huge.length - 4);
  assert.match(refused("layout", huge), /block length is 1844674406968\d+, expected below 2\^53/);
  const many = Buffer.alloc(8);
  many.set([1, 65, 0, 0, 0, 0, 0x10, 0x01]);
  assert.match(refused("layout", many), /block count is 4097, expected 0\.\.4096/);
  assert.throws(() => bytes(layout(first, { ...second, id: first.id })), /id 0 is taken/);
  assert.throws(() => bytes(layout({ ...first, bytes: 5 })), /pc\.ram: 5 bytes/);
  const tooMany = Array.from({ length: 4097 }, (_, id) => ({ id, name: `${id}`, bytes: 0 }));
  assert.throws(() => bytes(layout(...tooMany)), /4097 RAM blocks/);
});

test("LAYOUT: 4096 blocks with ordinary names fit the cap", () => {
  const blocks = Array.from({ length: 4096 }, (_, id) => ({
    id,
    name: `/rom@etc/device-${id}`,
    bytes: id * PAGE_BYTES,
  }));
  const [message] = received([encode.encodeLayout(IDS, { ...LAYOUT, blocks })]);
  assert.ok(message?.type === "layout");
  assert.deepEqual(message.layout.blocks, blocks);
});

test("JSON messages: what is no JSON, no object, or lacks a field is refused, and the field named", () => {
  const parse = (payload: string | Buffer) => () => {
    const parser = new ReplicationParser({ receiver: "backup", onMessage: () => {} });
    for (const part of encode.frame("hello", IDS, 0, [Buffer.from(payload)]).parts) parser.push(part);
  };
  const hello = (change: object) => parse(JSON.stringify({ ...HELLO, ...change }));
  hello({ later: "a field of a later version" })();
  assert.throws(parse("{]"), /hello is "\{\]", expected JSON/);
  assert.throws(parse("[]"), /expected a JSON object/);
  assert.throws(parse("null"), /expected a JSON object/);
  assert.throws(parse(Buffer.from([0x22, 0xff, 0x22])), /expected UTF-8/);
  assert.throws(parse("[".repeat(60_000)), ProtocolError);
  assert.throws(hello({ host: undefined }), /hello host is "missing", expected a string/);
  assert.throws(hello({ protocol: 1.5 }), /hello protocol is "1.5"/);
  assert.throws(hello({ ramBytes: -1 }), /hello ramBytes/);
  assert.throws(hello({ intervalMs: 0 }), /hello intervalMs is "0", expected a number above 0/);
  assert.throws(hello({ machine: { cpu: { model: 1 } } }), /cpu is neither/);
  assert.throws(hello({ machine: ["a"] }), /hello machine/);
  assert.throws(hello({ session: "vm1" }), /hello session is .* expected a UUID/);
  assert.throws(hello({ disks: undefined }), /hello disks is "missing", expected an array of objects/);
  assert.throws(hello({ disks: [7] }), /hello disks is "\[7\]", expected an array of objects \(0 is none\)/);
  assert.throws(
    hello({ disks: Array(9).fill({ id: 0, bytes: 1 }) }),
    /hello disks length is 9, expected at most 8/,
  );
  assert.throws(hello({ disks: [{ id: 0, bytes: -1 }] }), /hello disks\[0\] bytes is "-1"/);
  assert.throws(hello({ disks: [{ id: 65536, bytes: 1 }] }), /hello disks\[0\] id is "65536"/);
  assert.throws(
    hello({
      disks: [
        { id: 1, bytes: 1 },
        { id: 1, bytes: 2 },
      ],
    }),
    /hello disk id is 1, expected each id once/,
  );
});

test("HELLO and JOIN name a path that there may be", () => {
  const refused = (type: "hello" | "join", payload: Buffer, message: RegExp) => {
    const parser = new ReplicationParser({ receiver: "backup", onMessage: () => {} });
    const { parts } = encode.frame(type, IDS, 0, [payload]);
    assert.throws(() => {
      for (const part of parts) parser.push(part);
    }, message);
  };
  const hello = (change: object) => Buffer.from(JSON.stringify({ ...HELLO, ...change }));
  refused("hello", hello({ paths: 0 }), /hello paths is 0, expected 1\.\.8/);
  refused("hello", hello({ paths: 9 }), /hello paths is 9, expected 1\.\.8/);
  refused("hello", hello({ paths: undefined }), /hello paths is "missing"/);
  refused("hello", hello({ paths: 2, path: 2 }), /hello path is 2, expected below 2/);
  refused("join", Buffer.alloc(20, 0).fill(8, 17, 18), /join path is 8, expected below 8/);
  refused("join", Buffer.alloc(20, 0).fill(1, 19), /join reserved is 1, expected 0/);
});

test("WELCOME: what a backup says of its images is checked field by field", () => {
  const welcome = (disk: object) => () => {
    const parser = new ReplicationParser({ receiver: "primary", onMessage: () => {} });
    const payload = Buffer.from(JSON.stringify({ host: "host-b", generation: 7, disks: [disk] }));
    for (const part of encode.frame("welcome", IDS, 0, [payload]).parts) parser.push(part);
  };
  const replica = { id: 0, state: "replica", session: samples.SESSION, durableEpoch: 9 };
  welcome({ ...replica, later: "a field of a later version" })();
  welcome({ ...replica, suspects: Array(4096).fill([2 ** 40, 65536]) })();
  for (const [change, sentence] of [
    [{ state: "old" }, /disks\[0\] state is .* expected one of blank, unknown, replica, owner/],
    [{ state: undefined }, /disks\[0\] state is "missing"/],
    [{ session: "" }, /disks\[0\] session .* expected a UUID/],
    [{ durableEpoch: -1 }, /disks\[0\] durableEpoch/],
    [{ durableEpoch: null }, /disks\[0\] durableEpoch is "null"/],
    [{ suspects: {} }, /suspects .* expected an array of \[offset, length\] pairs/],
    [{ suspects: Array(4097).fill([0, 1]) }, /suspects length is 4097, expected at most 4096/],
    [{ suspects: [[0, 1], [1]] }, /pairs \(1 is none\)/],
    [{ suspects: [[0, 0]] }, /pairs \(0 is none\)/],
    [{ suspects: [[-1, 1]] }, /pairs \(0 is none\)/],
    [{ suspects: [[0, 1.5]] }, /pairs \(0 is none\)/],
    [{ suspects: [[Number.MAX_SAFE_INTEGER, 1]] }, /pairs \(0 is none\)/],
    [{ suspects: ["ab"] }, /pairs \(0 is none\)/],
  ] as const)
    assert.throws(welcome({ ...replica, ...change }), sentence, JSON.stringify(change).slice(0, 100));
});

test("DEVICE_STATE: a piece that goes beyond its total, or a total above the cap, is refused", () => {
  const piece = (total: number, offset: number, bytes: number) => {
    const payload = Buffer.alloc(8 + bytes);
    payload.writeUInt32BE(total, 0);
    payload.writeUInt32BE(offset, 4);
    return payload;
  };
  assert.match(
    refused("device-state", piece(10, 5, 6)),
    /offset is 5, expected a piece of 6 bytes to end within 10/,
  );
  assert.match(refused("device-state", piece(64 * 1024 * 1024 + 1, 0, 6)), /total length is 67108865/);
  assert.match(refused("device-state", piece(10, 2 ** 32 - 1, 6)), /offset is 4294967295/);
  assert.throws(
    () => [...encode.encodeDeviceState(IDS, 1, new Uint8Array(64 * 1024 * 1024 + 1))],
    RangeError,
  );
});

/** A checkpoint of `count` pages and some device state, through encoder, parser and digest. */
function checkpoint(count: number, stateBytes: number) {
  const pages = Array.from({ length: count }, (_, i) => ({ raw: i % 5 !== 0, block: i % 2, page: i }));
  const state = Buffer.alloc(stateBytes, "state");
  const encoder = new CheckpointEncoder(IDS, 12, new PageFrameBuffers(0));
  const list = samples.pageList(pages);
  return { list, state, frames: [...encoder.pages(list), ...encoder.deviceState(state), encoder.end()] };
}

function checkAll(frames: readonly encode.Frame[]): void {
  const digest = new CheckpointDigest(12);
  for (const message of received(frames)) {
    if (message.type === "pages" || message.type === "device-state") digest.addMessage(message);
    if (message.type === "checkpoint-end") digest.check(message);
  }
}

test("a checkpoint of many messages arrives whole: pages, device state, digest", () => {
  const { list, state, frames } = checkpoint(600, 2.5 * 1024 * 1024);
  assert.deepEqual(
    frames.map((frame) => frame.type),
    [...Array(3).fill("pages"), ...Array(3).fill("device-state"), "checkpoint-end"],
  );
  checkAll(frames);
  const messages = received(frames);
  const pages = messages.flatMap((m) => (m.type === "pages" ? samples.pagesOf(m.pages) : []));
  assert.deepEqual(pages, samples.pagesOf(list));
  const pieces = messages.flatMap((m) => (m.type === "device-state" ? [m.piece.bytes] : []));
  assert.ok(Buffer.concat(pieces).equals(state));
  checkAll(checkpoint(0, 0).frames);
});

test("I2: a checkpoint with a message lost, doubled, moved or of another epoch is not whole", () => {
  const broken = (change: (frames: encode.Frame[]) => encode.Frame[], sentence: RegExp) => {
    const { frames } = checkpoint(600, 2.5 * 1024 * 1024);
    assert.throws(() => checkAll(change(frames)), sentence);
  };
  const others = () => [
    ...new CheckpointEncoder(IDS, 13, new PageFrameBuffers(0)).pages(checkpoint(1, 0).list),
  ];
  broken(([, ...rest]) => rest, /checkpoint-end page entries is 600, expected 344/);
  broken(([first, ...rest]) => [first!, first!, ...rest], /page entries is 600, expected 856/);
  broken(([a, b, ...rest]) => [b!, a!, ...rest], /checkpoint-end digest/);
  broken((frames) => frames.toSpliced(4, 1), /device-state offset is 2097152, expected 1048576/);
  broken((frames) => frames.toSpliced(5, 1), /device state length is 2621440, expected 2097152/);
  broken((frames) => [...others(), ...frames], /pages epoch is 13, expected 12/);
});

test("a frame's buffer can be used again once it has left, and idle ones are bounded", () => {
  const buffers = new PageFrameBuffers(1);
  const list = samples.pageList([{ raw: true, block: 0, page: 1 }]);
  const frames = [1, 2].map((epoch) => encodePages(IDS, epoch, list, 0, 1, buffers.take()));
  for (const frame of frames) buffers.giveBack(frame);
  assert.equal(buffers.take(), frames[0]!.reusable);
  assert.notEqual(buffers.take(), frames[1]!.reusable);
});

test("a frame's checksum runs across its parts: how the payload is cut does not matter", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 9, maxLength: 300 }), fc.nat(300), (bytes, cut) => {
      const whole = encode.frame("device-state", IDS, 1, [bytes]);
      const parts = encode.frame("device-state", IDS, 1, [bytes.subarray(0, cut), bytes.subarray(cut)]);
      assert.ok(Buffer.concat(whole.parts).equals(Buffer.concat(parts.parts)));
    }),
  );
});

test("values that do not fit their field are a bug of ours, told before anything is sent", () => {
  assert.throws(() => encode.encodeAck(IDS, -1), RangeError);
  assert.throws(() => encode.encodeAck(IDS, 2 ** 53), RangeError);
  assert.throws(() => encode.encodeAck({ ...IDS, generation: 2 ** 32 }, 1), /generation 4294967296/);
  assert.throws(() => encode.encodeAck({ ...IDS, vmId: new Uint8Array(15) }, 1), /VM id of 15 bytes/);
  assert.throws(() => encode.encodeRefuse(IDS, { code: "x", message: "y".repeat(70_000) }), /payload of/);
});
