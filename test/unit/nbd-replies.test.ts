/**
 * The client's ear: the handshake and the replies of a server, cut anywhere, and what a server may not send.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { CHUNK, INFO, MAGIC, NbdProtocolError, OPTION, REPLY } from "../../src/codec/nbd.ts";
import { clientHandshake, NbdRefusal } from "../../src/codec/nbd-client-handshake.ts";
import { Dialogue } from "../../src/codec/nbd-dialogue.ts";
import {
  encodeDataHeader,
  encodeErrorChunk,
  encodeSimpleReply,
  encodeStatusChunk,
} from "../../src/codec/nbd-messages.ts";
import { encodeOptionReply, uint16, uint32 } from "../../src/codec/nbd-options.ts";
import { replies, SentRequest } from "../../src/codec/nbd-replies.ts";

const DISK_BYTES = 1 << 30;

// The handshake

const GREETING = Buffer.from("4e42444d4147494349484156454f50540003", "hex");
const STRUCTURED = encodeOptionReply(OPTION.structuredReply, REPLY.ack);
const UNSTRUCTURED = encodeOptionReply(OPTION.structuredReply, REPLY.unsupported);
const CONTEXTS = ["base:allocation", "qemu:dirty-bitmap:b0"];

function contextReply(id: number, name: string): Buffer {
  return encodeOptionReply(
    OPTION.setMetaContext,
    REPLY.metaContext,
    Buffer.concat([uint32(id), Buffer.from(name)]),
  );
}

function info(type: number, ...numbers: Buffer[]): Buffer {
  return encodeOptionReply(OPTION.go, REPLY.info, Buffer.concat([uint16(type), ...numbers]));
}

function size(bytes: bigint, flags: number): Buffer {
  const body = Buffer.alloc(8);
  body.writeBigUInt64BE(bytes);
  return info(INFO.export, body, uint16(flags));
}

const SIZE = size(BigInt(DISK_BYTES), 0x6d);
const SET = encodeOptionReply(OPTION.setMetaContext, REPLY.ack);
const WENT = encodeOptionReply(OPTION.go, REPLY.ack);
const blockSizes = (...sizes: number[]) => info(INFO.blockSize, ...sizes.map(uint32));

const HANDSHAKE = Buffer.concat([
  GREETING,
  STRUCTURED,
  contextReply(7, CONTEXTS[1]!),
  contextReply(3, CONTEXTS[0]!),
  SET,
  info(99, Buffer.from("what later servers may say")),
  SIZE,
  blockSizes(512, 65536, 0xffffffff),
  WENT,
]);

function shakeHands(chunks: readonly Uint8Array[], contexts: readonly string[] = CONTEXTS) {
  const sent: Uint8Array[] = [];
  const dialogue = new Dialogue(
    clientHandshake({ exportName: "disk0", contexts, send: (bytes) => sent.push(bytes) }),
  );
  let used = 0;
  for (const chunk of chunks) used += dialogue.push(chunk);
  return { opened: dialogue.result, sent: Buffer.concat(sent), used };
}

test("a server's handshake, cut at every byte, is understood the same, and no byte behind it is taken", () => {
  const expected = shakeHands([HANDSHAKE]);
  assert.deepEqual(expected.opened, {
    bytes: DISK_BYTES,
    flags: 0x6d,
    minimumBlock: 512,
    preferredBlock: 65536,
    maximumBlock: 32 << 20,
    structured: true,
    contexts: new Map([
      [CONTEXTS[1], 7],
      [CONTEXTS[0], 3],
    ]),
  });
  const bytes = Buffer.concat([HANDSHAKE, Buffer.from("first reply")]);
  for (let cut = 0; cut <= HANDSHAKE.length; cut++)
    assert.deepEqual(shakeHands([bytes.subarray(0, cut), bytes.subarray(cut)]), expected, `cut at ${cut}`);
  assert.deepEqual(shakeHands(Array.from(bytes, (byte) => Uint8Array.of(byte))), expected);
});

test("a server that knows neither structure nor block sizes will do, if no context is asked for", () => {
  const { opened } = shakeHands([GREETING, UNSTRUCTURED, SIZE, WENT], []);
  assert.deepEqual(
    [opened?.structured, opened?.minimumBlock, opened?.preferredBlock, opened?.maximumBlock],
    [false, 1, 4096, 32 << 20],
  );
});

test("a server that says no is told goodbye, and its reason is passed on", () => {
  const unknown = encodeOptionReply(OPTION.go, REPLY.unknown, "export 'disk0' not present");
  const policy = encodeOptionReply(OPTION.go, REPLY.policy);
  const noContexts = encodeOptionReply(OPTION.setMetaContext, REPLY.invalid, "too early");
  const rows: [RegExp, boolean, Buffer[], string[]][] = [
    [/refuses go: export 'disk0' not present/, true, [STRUCTURED, unknown], []],
    [/refuses go: reply 0x80000002/, false, [STRUCTURED, policy], []],
    [/refuses setMetaContext: too early/, false, [UNSTRUCTURED, noContexts], CONTEXTS],
    [
      /no metadata context "base:allocation"/,
      false,
      [STRUCTURED, contextReply(7, CONTEXTS[1]!), SET],
      CONTEXTS,
    ],
  ];
  for (const [message, unknownExport, bytes, contexts] of rows) {
    const sent: Uint8Array[] = [];
    const dialogue = new Dialogue(
      clientHandshake({ exportName: "disk0", contexts, send: (chunk) => sent.push(chunk) }),
    );
    assert.throws(
      () => dialogue.push(Buffer.concat([GREETING, ...bytes])),
      (error: unknown) =>
        error instanceof NbdRefusal && message.test(error.message) && error.unknownExport === unknownExport,
      `${message}`,
    );
    assert.equal(Buffer.from(sent.at(-1)!).readUInt32BE(8), OPTION.abort);
  }
});

test("a server that breaks the handshake is found out, before its numbers are followed", () => {
  const changed = (bytes: Buffer, at: number, value: number) => {
    const copy = Buffer.from(bytes);
    copy.writeUInt32BE(value, at);
    return copy;
  };
  const go = [GREETING, STRUCTURED];
  const many = Array.from({ length: 3 }, () => contextReply(7, CONTEXTS[1]!));
  const rows: [RegExp, Buffer[], string[]?][] = [
    [/no NBD server/, [Buffer.from("HTTP/1.1 200 OK of somebody else")]],
    [/oldest handshake/, [changed(GREETING, 8, 0x42)]],
    [/fixed newstyle/, [Buffer.concat([GREETING.subarray(0, 16), Buffer.of(0, 0)])]],
    [/is no reply/, [GREETING, changed(STRUCTURED, 0, 1)]],
    [/list was answered in place of structuredReply/, [GREETING, changed(STRUCTURED, 8, OPTION.list)]],
    [/has 4294967295 bytes; 16384/, [GREETING, changed(STRUCTURED, 16, 2 ** 32 - 1)]],
    [/without saying how large/, [...go, WENT]],
    [/info reply is malformed/, [...go, encodeOptionReply(OPTION.go, REPLY.info, Buffer.of(1))]],
    [/info reply is malformed/, [...go, encodeOptionReply(OPTION.go, 77)]],
    [/export is malformed/, [...go, info(INFO.export, uint32(1))]],
    [/too large/, [...go, size(2n ** 60n, 1)]],
    [/block sizes .* malformed/, [...go, blockSizes(1, 2)]],
    [/make no sense/, [...go, blockSizes(3, 4096, 1 << 20)]],
    [/make no sense/, [...go, blockSizes(0, 4096, 1 << 20)]],
    [/make no sense/, [...go, blockSizes(4096, 4096, 512)]],
    [/by itself/, [...go, contextReply(1, "x-own:idea")], CONTEXTS],
    [/by itself/, [...go, ...many], CONTEXTS],
    [/metadata context .* malformed/, [...go, contextReply(1, "")], CONTEXTS],
  ];
  for (const [message, bytes, contexts = []] of rows)
    assert.throws(
      () => shakeHands(bytes, contexts),
      (error: unknown) => error instanceof NbdProtocolError && message.test(error.message),
      `${message}`,
    );
});

// Replies

interface Heard {
  readonly done: { cookie: number; failure?: string; data?: string; extents?: unknown }[];
}

/** Hears `chunks` with these requests under way, by cookie. */
function hear(
  requests: Record<number, SentRequest>,
  chunks: readonly Uint8Array[],
  structured = true,
  contexts: readonly number[] = [1, 2],
): Heard {
  const open = new Map(Object.entries(requests).map(([cookie, request]) => [Number(cookie), request]));
  const done: Heard["done"] = [];
  const dialogue = new Dialogue(
    replies({
      structured,
      contexts: new Set(contexts),
      requestOf: (cookie) => open.get(cookie),
      onDone: (cookie, { failure, target, extents }) => {
        open.delete(cookie);
        done.push({
          cookie,
          ...(failure === undefined ? {} : { failure: `${failure.errno}: ${failure.said}` }),
          ...(target === undefined ? {} : { data: target.toString("hex") }),
          ...(extents === undefined ? {} : { extents: [...extents] }),
        });
      },
    }),
  );
  for (const chunk of chunks) dialogue.push(chunk);
  return { done };
}

function chunk(flags: number, type: number, cookie: number, ...body: Uint8Array[]): Buffer {
  const bytes = Buffer.concat([Buffer.alloc(20), ...body]);
  bytes.writeUInt32BE(MAGIC.structuredReply, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(BigInt(cookie), 8);
  bytes.writeUInt32BE(bytes.length - 20, 16);
  return bytes;
}

function uint64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

const read = (offset: number, length: number) => new SentRequest(offset, length, Buffer.alloc(length, 0xee));
const status = (offset: number, length: number) => new SentRequest(offset, length, "extents");
const plain = () => new SentRequest(0, 4096);
const data = (more: { cookie?: number; done?: number }, offset: number | bigint, bytes: Uint8Array) =>
  chunk(more.done ?? 0, CHUNK.data, more.cookie ?? 1, uint64(offset), bytes);
const hole = (offset: number, length: number) => chunk(0, CHUNK.hole, 1, uint64(offset), uint32(length));
const none = (cookie = 1) => chunk(1, CHUNK.none, cookie);

test("replies, cut at every byte and mixed with one another, are understood the same", () => {
  const requests = () => ({
    1: read(4096, 64),
    2: read(0, 8),
    3: status(0, 1 << 20),
    4: plain(),
    5: plain(),
    6: read(8, 8),
    [2 ** 40]: plain(),
  });
  const bytes = Buffer.concat([
    data({}, 4096 + 32, Buffer.alloc(16, 1)),
    encodeStatusChunk(3n, 2, [{ length: 1 << 20, flags: 1 }]).fill(0, 5, 6),
    data({}, 4096, Buffer.alloc(16, 2)),
    encodeSimpleReply(4n),
    Buffer.concat([encodeDataHeader(2n, 0, 8), Buffer.alloc(8, 3)]),
    hole(4096 + 48, 16),
    encodeSimpleReply(2n ** 40n, "ENOSPC"),
    encodeStatusChunk(3n, 1, [
      { length: 4096, flags: 0 },
      { length: 4096, flags: 0 },
      { length: 2 ** 32 - 1, flags: 3 },
    ]),
    hole(4096 + 16, 16),
    none(),
    encodeErrorChunk(5n, "EPERM", "not you"),
    chunk(0, CHUNK.errorAt, 6, uint32(5), uint16(3), Buffer.from("bad"), uint64(8)),
    data({ cookie: 6, done: 1 }, 8, Buffer.alloc(8, 4)),
  ]);
  const expected = hear(requests(), [bytes]);
  const hex = (...runs: [number, number][]) =>
    runs.map(([byte, n]) => byte.toString(16).padStart(2, "0").repeat(n)).join("");
  assert.deepEqual(expected.done, [
    { cookie: 4 },
    { cookie: 2, data: hex([3, 8]) },
    { cookie: 2 ** 40, failure: "ENOSPC: " },
    {
      cookie: 3,
      extents: [
        [2, [{ length: 1 << 20, flags: 1 }]],
        [
          1,
          [
            { length: 8192, flags: 0 },
            { length: (1 << 20) - 8192, flags: 3 },
          ],
        ],
      ],
    },
    { cookie: 1, data: hex([2, 16], [0, 16], [1, 16], [0, 16]) },
    { cookie: 5, failure: "EPERM: not you" },
    { cookie: 6, failure: "EIO: bad", data: hex([4, 8]) },
  ]);
  for (let cut = 0; cut <= bytes.length; cut++)
    assert.deepEqual(
      hear(requests(), [bytes.subarray(0, cut), bytes.subarray(cut)]),
      expected,
      `cut at ${cut}`,
    );
  assert.deepEqual(
    hear(
      requests(),
      Array.from(bytes, (byte) => Uint8Array.of(byte)),
    ),
    expected,
  );
});

test("simple replies carry a read's data where structure was not agreed on", () => {
  const bytes = Buffer.concat([
    encodeSimpleReply(2n, "EIO"),
    encodeSimpleReply(1n),
    Buffer.alloc(8, 5),
    encodeSimpleReply(3n),
  ]);
  const { done } = hear({ 1: read(0, 8), 2: read(8, 8), 3: plain() }, [bytes], false);
  assert.deepEqual(
    done.map(({ cookie, failure }) => [cookie, failure]),
    [
      [2, "EIO: "],
      [1, undefined],
      [3, undefined],
    ],
  );
  assert.equal(done[1]!.data, "05".repeat(8));
});

test("an error nobody knows is EINVAL, and one of an unknown type is an error all the same", () => {
  const body = [uint32(4711), uint16(2), Buffer.from("no"), Buffer.from("and more to come")];
  assert.deepEqual(hear({ 1: plain() }, [chunk(1, 0x8000 + 77, 1, ...body)]).done, [
    { cookie: 1, failure: "EINVAL: no" },
  ]);
});

test("I6: what was not asked for is refused before a byte of it is taken", () => {
  const oversized = Buffer.from(none());
  oversized.writeUInt32BE(2 ** 32 - 1, 16);
  const ofLength = (type: number, length: number, cookie = 1) => {
    const bytes = chunk(0, type, cookie);
    bytes.writeUInt32BE(length, 16);
    return Buffer.concat([bytes, Buffer.alloc(64)]);
  };
  const wholeRead = data({}, 0, Buffer.alloc(64));
  const tooFine = Array.from({ length: 1100 }, (_, i) => data({ cookie: 4 }, 8 * i, Buffer.alloc(4)));
  const rows: [RegExp, Buffer[]][] = [
    [/is none/, [Buffer.concat([uint32(0xdeadbeef), uint32(0), uint64(1)])]],
    [/belongs to no request/, [encodeSimpleReply(9n)]],
    [/belongs to no request/, [encodeSimpleReply(2n ** 63n + 1n)]],
    [/belongs to no request/, [wholeRead, none(), none()]],
    [/without structure/, [encodeSimpleReply(1n)]],
    [/without structure/, [encodeSimpleReply(2n)]],
    [/empty chunk has an impossible length/, [oversized]],
    [/not the last/, [chunk(0, CHUNK.none, 1)]],
    [/outside/, [data({}, 60, Buffer.alloc(8))]],
    [/outside/, [data({}, 2n ** 63n, Buffer.alloc(8))]],
    [/outside/, [ofLength(CHUNK.data, 2 ** 32 - 1)]],
    [/outside/, [hole(0, 65)]],
    [/outside/, [hole(8, 0)]],
    [/impossible length, 8/, [ofLength(CHUNK.data, 8)]],
    [/impossible length, 13/, [ofLength(CHUNK.hole, 13)]],
    [/sent twice/, [wholeRead, hole(32, 8)]],
    [/sent twice/, [data({}, 8, Buffer.alloc(8)), data({}, 0, Buffer.alloc(9))]],
    [/too many small parts/, tooFine],
    [/did not bring all/, [data({}, 0, Buffer.alloc(63)), none()]],
    [/did not bring all/, [data({}, 1, Buffer.alloc(63)), none()]],
    [/type 1 is no answer/, [data({ cookie: 3 }, 0, Buffer.alloc(8))]],
    [/type 5 is no answer/, [encodeStatusChunk(1n, 1, [{ length: 1, flags: 0 }])]],
    [/type 77 is no answer/, [chunk(0, 77, 1)]],
    [/block status has an impossible length/, [ofLength(CHUNK.blockStatus, 4, 2)]],
    [/block status has an impossible length/, [ofLength(CHUNK.blockStatus, 4 + 8 * (2 ** 20 + 1), 2)]],
    [/no metadata context/, [encodeStatusChunk(2n, 9, [{ length: 1, flags: 0 }])]],
    [
      /comes twice/,
      [1, 2].map(() => Buffer.from(encodeStatusChunk(2n, 1, [{ length: 1, flags: 0 }]).fill(0, 5, 6))),
    ],
    [/left a metadata context out/, [encodeStatusChunk(2n, 1, [{ length: 1, flags: 0 }])]],
    [/says nothing/, [encodeStatusChunk(2n, 1, [{ length: 0, flags: 0 }])]],
    [
      /beyond what was asked/,
      [
        encodeStatusChunk(2n, 1, [
          { length: 64, flags: 0 },
          { length: 1, flags: 1 },
        ]),
      ],
    ],
    [/error has an impossible length/, [ofLength(CHUNK.error, 2 ** 31)]],
    [/error has an impossible length/, [ofLength(CHUNK.error, 5)]],
    [/error chunk is malformed/, [chunk(1, CHUNK.error, 1, uint32(0), uint16(0))]],
    [/error chunk is malformed/, [chunk(1, CHUNK.error, 1, uint32(5), uint16(1))]],
  ];
  for (const [message, bytes] of rows) {
    const requests = { 1: read(0, 64), 2: status(0, 64), 3: plain(), 4: read(0, 16384) };
    assert.throws(
      () => hear(requests, bytes),
      (error: unknown) => error instanceof NbdProtocolError && message.test(error.message),
      `${message}`,
    );
  }
  assert.throws(
    () => hear({ 1: read(0, 64) }, [none()], false),
    /is none/,
    "structure that was not agreed on",
  );
});

test("chunks of a read may come in any order and size; together they are the read", () => {
  const cuts = fc.uniqueArray(fc.integer({ min: 1, max: 255 }), { maxLength: 30 });
  fc.assert(
    fc.property(cuts, fc.infiniteStream(fc.nat()), (at, dice) => {
      const whole = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
      const bounds = [0, ...at.sort((a, b) => a - b), 256];
      const chunks = bounds
        .slice(1)
        .map((to, i) => data({}, 1000 + bounds[i]!, whole.subarray(bounds[i]!, to)));
      const order = chunks.map((bytes) => [dice.next().value!, bytes] as const).sort(([a], [b]) => a - b);
      const { done } = hear({ 1: read(1000, 256) }, [...order.map(([, bytes]) => bytes), none()]);
      assert.equal(done[0]!.data, whole.toString("hex"));
    }),
  );
});

test("random bytes are refused with a sentence, and nothing else", () => {
  const replyHead = fc.constantFrom(Buffer.alloc(0), none().subarray(0, 16), hole(0, 8).subarray(0, 18));
  fc.assert(
    fc.property(replyHead, fc.uint8Array({ maxLength: 200 }), fc.boolean(), (head, garbage, shaking) => {
      try {
        if (shaking) shakeHands([GREETING, garbage]);
        else hear({ 1: read(0, 64), 2: status(0, 64) }, [head, garbage]);
      } catch (error) {
        assert.ok(error instanceof NbdProtocolError || error instanceof NbdRefusal, `${error}`);
      }
    }),
    { numRuns: 2000 },
  );
});
