/**
 * The server's side of NBD: what a client may send, cut anywhere, wrong in every way; and an owner that takes
 * its time.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { COMMAND, COMMAND_FLAG, INFO, LONGEST_OPTION_DATA, OPTION, REPLY } from "../../src/codec/nbd.ts";
import { encodeRequest } from "../../src/codec/nbd-messages.ts";
import { encodeGoData, encodeMetaContextData, encodeOption } from "../../src/codec/nbd-options.ts";
import { MOST_OUTSTANDING, type NbdExport, NbdServerSession } from "../../src/codec/nbd-server.ts";
import { BLOCK, entering, exportOf, MemoryDisk } from "./nbd-samples.ts";

const DISK_BYTES = 64 * BLOCK;
const GO = encodeOption(OPTION.go, encodeGoData({ exportName: "disk0", infos: [INFO.blockSize] }));
const CLIENT_FLAGS = Buffer.of(0, 0, 0, 3);
const pattern = Buffer.from(Array.from({ length: DISK_BYTES }, (_, i) => (i * 7 + (i >> 8)) % 251));

/** Everything a client can say, in one go. */
const CONVERSATION = Buffer.concat([
  CLIENT_FLAGS,
  encodeOption(77, Buffer.from("who knows")),
  encodeOption(OPTION.startTls),
  encodeOption(OPTION.list),
  encodeOption(
    OPTION.info,
    encodeGoData({ exportName: "disk0", infos: [INFO.name, INFO.description, INFO.blockSize, 99] }),
  ),
  encodeOption(OPTION.structuredReply),
  encodeOption(OPTION.listMetaContext, encodeMetaContextData({ exportName: "disk0", queries: [] })),
  encodeOption(
    OPTION.setMetaContext,
    encodeMetaContextData({ exportName: "disk0", queries: ["base:allocation", "x-other:thing"] }),
  ),
  GO,
  encodeRequest(COMMAND.write, 0, 1, 1024, 1536),
  pattern.subarray(0, 1536),
  encodeRequest(COMMAND.write, COMMAND_FLAG.fua, 2, DISK_BYTES, 512),
  pattern.subarray(0, 512),
  encodeRequest(COMMAND.read, COMMAND_FLAG.unfragmented, 3, 512, 2048),
  encodeRequest(COMMAND.zero, COMMAND_FLAG.noHole, 4, 1024, 512),
  encodeRequest(COMMAND.trim, 0, 5, 1536, 512),
  encodeRequest(COMMAND.flush, 0, 6, 0, 0),
  encodeRequest(COMMAND.blockStatus, 0, 7, 0, DISK_BYTES),
  encodeRequest(COMMAND.cache, 0, 8, 0, 512),
  encodeRequest(99, 0, 9, 0, 512),
  encodeRequest(COMMAND.disconnect, 0, 0, 0, 0),
  Buffer.from("what comes behind a goodbye"),
]);

interface Talk {
  readonly disk: MemoryDisk;
  readonly session: NbdServerSession;
  readonly sent: Uint8Array[];
  readonly reply: () => Buffer;
}

function talk(more: Partial<NbdExport> = {}): Talk {
  const disk = new MemoryDisk(exportOf(DISK_BYTES, { blockStatus: true, description: "a disk", ...more }));
  const sent: Uint8Array[] = [];
  const session = disk.session((bytes) => sent.push(bytes));
  session.start();
  return { disk, session, sent, reply: () => Buffer.concat(sent) };
}

/** Pushes as an owner does: what was not taken is pushed again with what comes. */
function pushAll(session: NbdServerSession, chunks: readonly Uint8Array[]): void {
  let rest = Buffer.alloc(0);
  for (const chunk of chunks) {
    rest = Buffer.concat([rest, chunk]);
    do rest = rest.subarray(session.push(rest));
    while (session.stalled);
    assert.equal(rest.length, 0, "nothing is left when the session is not stalled");
  }
}

function transcript({ disk, reply }: Talk) {
  return {
    reply: reply().toString("hex"),
    requests: disk.requests,
    content: disk.content.toString("hex"),
    ends: disk.ends,
  };
}

function inside(more: Partial<NbdExport> = {}): Talk {
  const one = talk(more);
  pushAll(one.session, [CLIENT_FLAGS, encodeOption(OPTION.structuredReply), GO]);
  one.sent.length = 0;
  return one;
}

/**
 * Errors of the structured or simple replies in `bytes`, one each; 0 for success. Reads are not among them.
 */
function errorsIn(bytes: Buffer): number[] {
  const errors: number[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (bytes.readUInt32BE(at) === 0x67446698) {
      errors.push(bytes.readUInt32BE(at + 4));
      at += 16;
    } else {
      assert.equal(bytes.readUInt32BE(at), 0x668e33ef);
      assert.equal(bytes.readUInt16BE(at + 6), 0x8001, "an error chunk");
      errors.push(bytes.readUInt32BE(at + 20));
      at += 20 + bytes.readUInt32BE(at + 16);
    }
  }
  return errors;
}

/** Types of the option replies in `bytes`. */
function typesIn(bytes: Buffer): number[] {
  const types: number[] = [];
  for (let at = 0; at < bytes.length; at += 20 + bytes.readUInt32BE(at + 16)) {
    assert.equal(bytes.readBigUInt64BE(at), 0x3e889045565a9n);
    types.push(bytes.readUInt32BE(at + 12));
  }
  return types;
}

test("a whole conversation, cut at every byte, is understood the same as uncut", () => {
  const whole = talk();
  pushAll(whole.session, [CONVERSATION]);
  const expected = transcript(whole);
  assert.deepEqual(
    whole.disk.requests.map(({ kind, fua, noHole }) => [kind, fua, noHole]),
    [
      ["write", false, false],
      ["read", false, false],
      ["zero", false, true],
      ["trim", false, false],
      ["flush", false, false],
      ["block-status", false, false],
    ],
  );
  assert.deepEqual(whole.disk.ends, [
    { clean: true, message: "the NBD client has left, with all its requests answered" },
  ]);
  for (let cut = 0; cut <= CONVERSATION.length; cut++) {
    const one = talk();
    pushAll(one.session, [CONVERSATION.subarray(0, cut), CONVERSATION.subarray(cut)]);
    assert.deepEqual(transcript(one), expected, `cut at ${cut}`);
  }
  const bytewise = talk();
  pushAll(
    bytewise.session,
    Array.from(CONVERSATION, (byte) => Uint8Array.of(byte)),
  );
  assert.deepEqual(transcript(bytewise), expected, "byte by byte");
});

test("an owner that takes any part of a write, and any request only later, gets the same", () => {
  const whole = talk();
  pushAll(whole.session, [CONVERSATION]);
  const expected = transcript(whole);
  const numbers = fc.array(fc.nat(700), { minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(numbers, fc.array(fc.integer({ min: 1, max: 900 }), { minLength: 1 }), (appetites, sizes) => {
      const one = talk();
      let turn = 0;
      const next = () => appetites[turn++ % appetites.length]!;
      // Now and then it takes all, or it might never.
      one.disk.appetite = (offered) => (turn % 50 === 49 ? offered + next() * 0 : Math.min(offered, next()));
      one.disk.willing = () => next() % 3 !== 0 || turn % 50 === 0;
      const chunks: Uint8Array[] = [];
      for (let at = 0, i = 0; at < CONVERSATION.length; i++) {
        const size = sizes[i % sizes.length]!;
        chunks.push(CONVERSATION.subarray(at, at + size));
        at += size;
      }
      pushAll(one.session, chunks);
      assert.deepEqual(transcript(one), expected);
    }),
    { numRuns: 100 },
  );
});

test("a write's data is handed over as views into the chunk: nothing is copied or kept", () => {
  const disk = exportOf(DISK_BYTES);
  const pieces: Uint8Array[] = [];
  const session: NbdServerSession = new NbdServerSession({
    exports: [disk],
    send: () => {},
    onRequest: (request) => {
      session.answer(request);
      return true;
    },
    onWriteData: (_, piece) => {
      pieces.push(piece);
      return piece.length;
    },
    onEnd: ({ message }) => assert.fail(message),
  });
  session.start();
  session.push(entering("disk0"));
  const chunk = Buffer.concat([encodeRequest(COMMAND.write, 0, 1, 0, 4096), pattern.subarray(0, 3000)]);
  session.push(chunk);
  session.push(pattern.subarray(3000, 4096));
  assert.equal(pieces[0]!.buffer, chunk.buffer);
  assert.equal(pieces[1]!.buffer, pattern.buffer);
  assert.deepEqual(Buffer.concat(pieces), pattern.subarray(0, 4096));
});

test("a push that is stopped in a write says how far it got, and goes on there", () => {
  const { disk, session, reply } = inside();
  const chunk = Buffer.concat([encodeRequest(COMMAND.write, 0, 1, 0, 1024), pattern.subarray(0, 1024)]);
  disk.appetite = () => 100;
  assert.equal(session.push(chunk), 128);
  assert.ok(session.stalled);
  disk.appetite = () => 0;
  assert.equal(session.push(chunk.subarray(128)), 0);
  disk.appetite = (offered) => offered;
  disk.willing = () => false;
  assert.equal(session.push(chunk.subarray(128)), 924);
  assert.ok(session.stalled, "the request itself was not taken");
  assert.equal(reply().length, 0);
  disk.willing = () => true;
  assert.equal(session.push(Buffer.alloc(0)), 0);
  assert.ok(!session.stalled);
  assert.deepEqual(errorsIn(reply()), [0]);
  assert.deepEqual(disk.content.subarray(0, 1024), pattern.subarray(0, 1024));
});

test("requests may be answered in any order, each under its own cookie", () => {
  const { disk, session, reply } = inside();
  disk.onTaken = () => {};
  const cookies = [5, 2 ** 40 + 9, 7];
  for (const cookie of cookies) session.push(encodeRequest(COMMAND.flush, 0, cookie, 0, 0));
  for (const request of disk.requests.toReversed()) session.answer(request);
  const answered = [0, 16, 32].map((at) => Number(reply().readBigUInt64BE(at + 8)));
  assert.deepEqual(answered, cookies.toReversed());
});

test("I6: so many requests may wait for their answers, and no more are read", () => {
  const { disk, session } = inside();
  disk.onTaken = () => {};
  const all = Buffer.concat(
    Array.from({ length: MOST_OUTSTANDING + 2 }, (_, i) => encodeRequest(COMMAND.flush, 0, i, 0, 0)),
  );
  const rest = all.subarray(session.push(all));
  assert.equal(disk.requests.length, MOST_OUTSTANDING);
  assert.ok(session.stalled && rest.length === 56);
  session.answer(disk.requests[3]!);
  session.answer(disk.requests[4]!);
  assert.equal(session.push(rest), 56);
  assert.equal(disk.requests.length, MOST_OUTSTANDING + 2);
});

test("a goodbye waits until everything is answered", () => {
  const { disk, session } = inside();
  disk.onTaken = () => {};
  session.push(
    Buffer.concat([encodeRequest(COMMAND.read, 0, 1, 0, 512), encodeRequest(COMMAND.disconnect, 0, 2, 0, 0)]),
  );
  assert.equal(disk.ends.length, 0);
  session.answerRead(disk.requests[0]!, Buffer.alloc(512));
  assert.equal(disk.ends[0]?.clean, true);
});

test("what may not be done is refused with the error that the protocol names, and the session goes on", () => {
  const { read, write, zero, trim, flush, cache, blockStatus } = COMMAND;
  const [EPERM, EINVAL, ENOSPC, EOVERFLOW] = [1, 22, 28, 75];
  const small = { maximumBlock: 8192 };
  const rows: [number, string, Partial<NbdExport>, number, number, number, number][] = [
    [EINVAL, "a read beyond the end", {}, read, 0, DISK_BYTES - 512, 1024],
    [EINVAL, "a trim beyond the end", {}, trim, 0, 0, DISK_BYTES + 512],
    [ENOSPC, "a write beyond the end", {}, write, 0, DISK_BYTES - 512, 1024],
    [ENOSPC, "a write far beyond the end", {}, write, 0, 2 ** 52, 512],
    [ENOSPC, "a zero beyond the end", {}, zero, 0, 512, 2 ** 32 - 512],
    [EINVAL, "an offset that is not aligned", {}, write, 0, 256, 512],
    [EINVAL, "a length that is not aligned", {}, read, 0, 512, 100],
    [EINVAL, "nothing to read", {}, read, 0, 0, 0],
    [EINVAL, "nothing to write", {}, write, 0, 0, 0],
    [EPERM, "a write to what is read-only", { readOnly: true }, write, 0, 0, 512],
    [EPERM, "a zero to what is read-only", { readOnly: true }, zero, 0, 0, 512],
    [EPERM, "a trim to what is read-only", { readOnly: true }, trim, 0, 0, 512],
    [EOVERFLOW, "a read of too much", small, read, 0, 0, 16384],
    [EINVAL, "a write of too much", small, write, 0, 0, 16384],
    [0, "a zero of as much", small, zero, 0, 0, 16384],
    [EINVAL, "quick zeroing where it is not offered", {}, zero, COMMAND_FLAG.fast, 0, 512],
    [0, "quick zeroing where it is", { fastZero: true }, zero, COMMAND_FLAG.fast, 0, 512],
    [EINVAL, "a flag of zeroing at a write", {}, write, COMMAND_FLAG.noHole, 0, 512],
    [EINVAL, "a flag nobody knows", {}, trim, 0x80, 0, 512],
    [0, "forced unit access everywhere", {}, flush, COMMAND_FLAG.fua, 0, 0],
    [EINVAL, "a flush of a range", {}, flush, 0, 512, 512],
    [EINVAL, "cache where it is not offered", {}, cache, 0, 0, 512],
    [0, "cache where it is", { cache: true }, cache, 0, 0, 512],
    [EINVAL, "block status that was not agreed on", {}, blockStatus, 0, 0, 512],
    [EINVAL, "a command nobody knows", {}, 42, 0, 0, 512],
  ];
  for (const [error, what, more, command, flags, offset, length] of rows) {
    const { session, reply, disk } = inside(more);
    const data = pattern.subarray(0, command === write ? length : 0);
    const header = encodeRequest(command, flags, 1, offset, length);
    pushAll(session, [header, data, encodeRequest(flush, 0, 2, 0, 0)]);
    assert.deepEqual(errorsIn(reply()), [error, 0], what);
    assert.deepEqual(disk.ends, [], what);
    if (error !== 0)
      assert.ok(
        disk.content.every((byte) => byte === 0),
        what,
      );
  }
});

test("an offset of 64 bits does not wrap around into the disk", () => {
  const { session, reply } = inside();
  const header = encodeRequest(COMMAND.write, 0, 1, 0, 512);
  header.fill(0xff, 16, 24);
  pushAll(session, [header, pattern.subarray(0, 512)]);
  assert.deepEqual(errorsIn(reply()), [28]);
});

test("without structured replies errors and data come in simple ones", () => {
  const { session, sent, disk } = talk();
  pattern.copy(disk.content);
  session.push(entering("disk0"));
  sent.length = 0;
  session.push(
    Buffer.concat([
      encodeRequest(COMMAND.read, 0, 3, 512, 512),
      encodeRequest(COMMAND.read, 0, 4, DISK_BYTES, 512),
      encodeRequest(COMMAND.read, COMMAND_FLAG.unfragmented, 5, 0, 512),
    ]),
  );
  const simple = (error: number, cookie: number) =>
    Buffer.from(
      `67446698${error.toString(16).padStart(8, "0")}${cookie.toString(16).padStart(16, "0")}`,
      "hex",
    );
  assert.deepEqual(
    Buffer.concat(sent),
    Buffer.concat([simple(0, 3), pattern.subarray(512, 1024), simple(22, 4), simple(22, 5)]),
  );
});

test("the old way in: size, flags, and 124 zeroes for those who want them", () => {
  for (const [flags, zeroes] of [
    [1, 124],
    [3, 0],
  ] as const) {
    const { session, sent } = talk();
    sent.length = 0;
    const client = entering("disk0");
    client[3] = flags;
    session.push(client);
    const reply = Buffer.concat(sent);
    assert.equal(reply.length, 10 + zeroes);
    assert.equal(reply.readBigUInt64BE(), BigInt(DISK_BYTES));
    assert.equal(reply.readUInt16BE(8), 0b1101101, "flags, flush, fua, trim, zero");
    assert.equal(session.export?.name, "disk0");
  }
});

test("options that cannot be granted are refused, and the handshake goes on", () => {
  const meta = (exportName: string, queries: string[]) => encodeMetaContextData({ exportName, queries });
  const { ack, unsupported, invalid, unknown, tooBig, server, metaContext } = REPLY;
  const structured = [OPTION.structuredReply, Buffer.alloc(0)] as const;
  const malformed = Buffer.from(GO.subarray(16));
  malformed.writeUInt32BE(2 ** 32 - 1);
  const manyQueries = Buffer.from(meta("disk0", []));
  manyQueries.writeUInt32BE(2 ** 32 - 1, manyQueries.length - 4);
  const tooLong = Buffer.alloc(LONGEST_OPTION_DATA + 1);
  const rows: [string, (readonly [number, Buffer])[], number[]][] = [
    ["TLS", [[OPTION.startTls, Buffer.alloc(0)]], [unsupported]],
    ["an option nobody knows", [[4711, Buffer.from("data")]], [unsupported]],
    ["a list", [[OPTION.list, Buffer.alloc(0)]], [server, ack]],
    ["a list with data", [[OPTION.list, Buffer.of(1)]], [invalid]],
    ["structure with data", [[OPTION.structuredReply, Buffer.of(1)]], [invalid]],
    ["an export that is not there", [[OPTION.go, encodeGoData({ exportName: "no", infos: [] })]], [unknown]],
    ["a name that goes beyond the data", [[OPTION.go, malformed]], [invalid]],
    ["data cut short", [[OPTION.info, GO.subarray(16, GO.length - 1)]], [invalid]],
    ["no data", [[OPTION.go, Buffer.alloc(0)]], [invalid]],
    ["a name with a NUL", [[OPTION.go, encodeGoData({ exportName: "d\0", infos: [] })]], [invalid]],
    ["contexts too early", [[OPTION.setMetaContext, meta("disk0", ["base:allocation"])]], [invalid]],
    [
      "contexts",
      [structured, [OPTION.setMetaContext, meta("disk0", ["base:allocation"])]],
      [ack, metaContext, ack],
    ],
    [
      "contexts not there",
      [structured, [OPTION.setMetaContext, meta("disk0", ["base:", "x:y"])]],
      [ack, ack],
    ],
    [
      "a list of all contexts",
      [structured, [OPTION.listMetaContext, meta("disk0", [])]],
      [ack, metaContext, ack],
    ],
    [
      "a list of a name space",
      [structured, [OPTION.listMetaContext, meta("disk0", ["base:"])]],
      [ack, metaContext, ack],
    ],
    ["contexts of nothing", [structured, [OPTION.listMetaContext, meta("no", [])]], [ack, unknown]],
    ["more queries than there are", [structured, [OPTION.setMetaContext, manyQueries]], [ack, invalid]],
    ["a known option with too much data", [[OPTION.info, tooLong]], [tooBig]],
    ["an unknown one with too much data", [[4711, tooLong]], [unsupported]],
  ];
  for (const [what, options, expected] of rows) {
    const { session, sent, disk, reply } = talk();
    sent.length = 0;
    pushAll(session, [CLIENT_FLAGS]);
    for (const [option, data] of options) {
      const header = encodeOption(option);
      header.writeUInt32BE(data.length, 12);
      pushAll(session, [header, data]);
    }
    assert.deepEqual(typesIn(reply()), expected, what);
    assert.deepEqual(disk.ends, [], what);
    pushAll(session, [GO]);
    assert.equal(session.export?.name, "disk0", what);
  }
});

test("contexts count only for the export they were agreed on for, and until they are set anew", () => {
  const status = (options: Buffer[]) => {
    const { session, sent, reply } = talk();
    pushAll(session, [CLIENT_FLAGS, encodeOption(OPTION.structuredReply), ...options, GO]);
    sent.length = 0;
    pushAll(session, [encodeRequest(COMMAND.blockStatus, 0, 1, 0, 512)]);
    return reply().readUInt16BE(6);
  };
  const set = (queries: string[]) =>
    encodeOption(OPTION.setMetaContext, encodeMetaContextData({ exportName: "disk0", queries }));
  assert.equal(status([set(["base:allocation"])]), 5);
  assert.equal(status([]), 0x8001);
  assert.equal(status([set(["base:allocation"]), set([])]), 0x8001);
});

test("a client that breaks the protocol is let go with a sentence, and nothing comes after it", () => {
  const wrongMagic = encodeRequest(COMMAND.flush, 0, 1, 0, 0);
  wrongMagic[0] = 0;
  const wrongOption = encodeOption(OPTION.list);
  wrongOption[0] = 0;
  const longName = encodeOption(OPTION.exportName);
  longName.writeUInt32BE(2 ** 32 - 1, 12);
  const rows: [RegExp, Buffer[], number][] = [
    [/flags 0x7/, [Buffer.of(0, 0, 0, 7)], 0],
    [/no option/, [CLIENT_FLAGS, wrongOption], 0],
    [/export "nothing", which is not there/, [entering("nothing")], 0],
    [/name of 4294967295 bytes/, [CLIENT_FLAGS, longName], 0],
    [/no request/, [entering("disk0"), wrongMagic], 1],
    [/write 33554944 bytes at once/, [entering("disk0"), encodeRequest(COMMAND.write, 0, 1, 0, 33554944)], 1],
    [/write 4294967295 bytes/, [entering("disk0"), encodeRequest(COMMAND.write, 0, 1, 0, 2 ** 32 - 1)], 1],
    [/1024 options/, [CLIENT_FLAGS, ...Array.from({ length: 1025 }, () => encodeOption(4711))], 1024],
  ];
  for (const [message, bytes, replies] of rows) {
    const { session, disk, sent } = talk();
    sent.length = 0;
    pushAll(session, [...bytes, CONVERSATION]);
    assert.equal(disk.ends.length, 1, `${message}`);
    assert.match(disk.ends[0]!.message, message);
    assert.match(disk.ends[0]!.message, /^the NBD client /);
    assert.equal(disk.ends[0]!.clean, false);
    assert.deepEqual(disk.requests, []);
    assert.equal(sent.length, replies);
  }
});

test("a client that leaves during the handshake is answered, and it is no failure", () => {
  const { session, disk, sent, reply } = talk();
  sent.length = 0;
  pushAll(session, [CLIENT_FLAGS, encodeOption(OPTION.abort)]);
  assert.deepEqual(typesIn(reply()), [REPLY.ack]);
  assert.equal(disk.ends[0]?.clean, true);
});

test("I6: whatever numbers clients send, by the thousand, no memory is taken for them", () => {
  const before = process.memoryUsage().arrayBuffers;
  const kept: NbdServerSession[] = [];
  const hugeOption = encodeOption(OPTION.setMetaContext);
  hugeOption.writeUInt32BE(2 ** 32 - 1, 12);
  for (let i = 0; i < 500; i++) {
    for (const bytes of [
      [CLIENT_FLAGS, hugeOption, Buffer.alloc(100)],
      [entering("disk0"), encodeRequest(COMMAND.write, 0, 1, 0, 32 << 20), Buffer.alloc(100)],
      [entering("disk0"), encodeRequest(COMMAND.read, 0, 1, 0, 2 ** 32 - 512)],
    ]) {
      const { session } = talk();
      kept.push(session);
      for (const chunk of bytes) session.push(chunk);
    }
  }
  const grown = process.memoryUsage().arrayBuffers - before;
  // A session in its handshake keeps 16 KiB, a disk of the test 32 KiB; the numbers above add up to 4 TiB.
  assert.ok(kept.length === 1500 && grown < 1500 * (64 << 10), `${grown} bytes`);
});

test("random bytes, and a right conversation with bytes changed, never make it throw", () => {
  const start = fc.constantFrom(Buffer.alloc(0), CLIENT_FLAGS, entering("disk0"));
  fc.assert(
    fc.property(start, fc.uint8Array({ maxLength: 300 }), (prefix, garbage) => {
      const { session, disk } = talk();
      pushAll(session, [prefix, garbage]);
      assert.ok(disk.ends.length <= 1);
    }),
    { numRuns: 500 },
  );
  const changes = fc.array(fc.tuple(fc.nat(CONVERSATION.length - 1), fc.nat(255)), {
    minLength: 1,
    maxLength: 4,
  });
  fc.assert(
    fc.property(changes, (all) => {
      const bytes = Buffer.from(CONVERSATION);
      for (const [at, value] of all) bytes[at] = value;
      const { session, disk } = talk({ cache: true });
      pushAll(session, [bytes]);
      assert.ok(disk.ends.length <= 1);
    }),
    { numRuns: 1500 },
  );
});

test("an owner's mistakes are told at once", () => {
  const { session, disk } = inside();
  disk.onTaken = () => {};
  session.push(encodeRequest(COMMAND.read, 0, 1, 0, 512));
  session.push(encodeRequest(COMMAND.flush, 0, 2, 0, 0));
  const [read, flush] = disk.requests;
  assert.throws(() => session.answer(read!), RangeError);
  assert.throws(() => session.answerRead(read!, Buffer.alloc(511)), RangeError);
  assert.throws(() => session.answerRead(flush!, Buffer.alloc(0)), RangeError);
  assert.throws(() => session.answerBlockStatus(flush!, [{ length: 1, flags: 0 }]), RangeError);
  session.answer(flush!);
  assert.throws(() => session.answer(flush!), /nobody waits for/);
  disk.appetite = (offered) => offered + 1;
  const write = Buffer.concat([encodeRequest(COMMAND.write, 0, 3, 0, 512), Buffer.alloc(512)]);
  assert.throws(() => session.push(write), /took 513 of 512/);
  session.stop();
  session.answer(read!, "EIO");

  const served = (more: Partial<NbdExport>) => () => new MemoryDisk(exportOf(0, more)).session(() => {});
  for (const [more, message] of [
    [{ bytes: 100 }, /size of 100/],
    [{ minimumBlock: 3 }, /minimum block of 3/],
    [{ preferredBlock: 256 }, /preferred block of 256/],
    [{ maximumBlock: 64 << 20 }, /maximum block/],
    [{ name: "x".repeat(4097) }, /at most 4096/],
  ] as const)
    assert.throws(served(more), message);
  const two = [exportOf(512), exportOf(512)];
  const rest = { send() {}, onRequest: () => true, onWriteData: () => 0, onEnd() {} };
  assert.throws(() => new NbdServerSession({ exports: two, ...rest }), /two of this name/);
  const early = new NbdServerSession({ exports: [exportOf(512)], ...rest });
  assert.throws(() => early.push(CLIENT_FLAGS), /started/);
});
