import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import {
  HEADER_BYTES,
  MESSAGES,
  type MessageType,
  ProtocolError,
  type ReplicationMessage,
  type Role,
} from "../../src/codec/replication.ts";
import { encodeAck, encodeHeartbeat } from "../../src/codec/replication-encode.ts";
import { uuidText, vmIdBytes } from "../../src/codec/replication-header.ts";
import { ReplicationParser } from "../../src/codec/replication-parser.ts";
import * as samples from "./replication-samples.ts";

const { IDS } = samples;
const ROLES: Role[] = ["primary", "backup"];
const prologue = [samples.helloSample(samples.HELLO), samples.layoutSample(samples.LAYOUT)];

/** A header as raw fields, with right checksums unless told otherwise. */
function rawHeader(fields: {
  type?: number;
  length?: number;
  at?: number;
  byte?: number;
  epochHigh?: number;
}): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32BE(0x524d5553, 0);
  header[4] = 1;
  header[5] = fields.type ?? MESSAGES.heartbeat.code;
  header.set(IDS.vmId, 8);
  header.writeUInt32BE(fields.length ?? 8, 28);
  header.writeUInt32BE(fields.epochHigh ?? 0, 32);
  if (fields.at !== undefined) header[fields.at] = fields.byte!;
  header.writeUInt32BE(crc32(header.subarray(0, 44)), 44);
  return header;
}

function parserOf(receiver: Role, allocated: number[] = []): ReplicationParser {
  return new ReplicationParser({
    receiver,
    vmId: IDS.vmId,
    onMessage: () => {},
    allocate: (bytes) => {
      allocated.push(bytes);
      return new Uint8Array(bytes);
    },
  });
}

function refuses(code: string, action: () => unknown): ProtocolError {
  let caught: unknown;
  try {
    action();
  } catch (error) {
    caught = error;
  }
  assert.ok(caught instanceof ProtocolError, `expected a ProtocolError "${code}", got ${caught}`);
  assert.equal(caught.code, code, caught.message);
  assert.match(caught.message, /^replication link: .+ is .+, expected .+/);
  return caught;
}

for (const [role, what, all] of [
  ["primary", "every message to a primary", samples.oneOfEach("primary")],
  ["backup", "every message to a backup", samples.oneOfEach("backup")],
  ["backup", "every message on a further path", samples.onAnotherPath()],
] as const) {
  test(`${what}, cut at every byte, gives the same messages as uncut`, () => {
    const bytes = samples.wire(all);
    const expected = all.map((one) => one.expected);
    assert.deepEqual(samples.parse(role, [bytes]), expected);
    for (let cut = 0; cut <= bytes.length; cut++) {
      assert.deepEqual(
        samples.parse(role, [bytes.subarray(0, cut), bytes.subarray(cut)]),
        expected,
        `cut at ${cut}`,
      );
    }
    assert.deepEqual(
      samples.parse(
        role,
        Array.from(bytes, (byte) => Uint8Array.of(byte)),
      ),
      expected,
      "byte by byte",
    );
  });
}

test("whatever is encoded is decoded the same, in any order and in chunks of any size", () => {
  const conversation = fc.tuple(
    fc.array(samples.samplesInSession, { maxLength: 8 }),
    fc.array(fc.integer({ min: 1, max: 9000 }), { minLength: 1, maxLength: 20 }),
  );
  fc.assert(
    fc.property(conversation, ([session, sizes]) => {
      for (const role of ROLES) {
        const own = session.filter((one) => one.to === role);
        // A LAYOUT of the session would move the bounds of the pages after it: it goes last.
        const ordered = [...own].sort(
          (a, b) => Number(a.frame.type === "layout") - Number(b.frame.type === "layout"),
        );
        const all = role === "backup" ? [...prologue, ...ordered] : ordered;
        const bytes = samples.wire(all);
        assert.deepEqual(
          samples.parse(role, rechunk(bytes, sizes)),
          all.map((one) => one.expected),
        );
      }
    }),
    { numRuns: 150 },
  );
});

function rechunk(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length]!;
    chunks.push(bytes.subarray(at, at + size));
    at += size;
  }
  return chunks;
}

test("whatever a primary says of itself in HELLO arrives the same", () => {
  fc.assert(
    fc.property(samples.helloSamples, (one) => {
      assert.deepEqual(samples.parse("backup", [samples.wire([one])]), [one.expected]);
    }),
  );
});

test("whatever path a primary wants to make arrives the same", () => {
  fc.assert(
    fc.property(samples.joinSamples, (one) => {
      assert.deepEqual(samples.parse("backup", [samples.wire([one])]), [one.expected]);
    }),
  );
});

test("every single flipped bit of a header is refused, on its 48th byte, and nothing is allocated", () => {
  const whole = samples.wire([{ frame: encodeHeartbeat(IDS, 77) }]);
  for (let bit = 0; bit < HEADER_BYTES * 8; bit++) {
    const header = Buffer.from(whole.subarray(0, HEADER_BYTES));
    header[bit >> 3]! ^= 1 << (bit & 7);
    const allocated: number[] = [];
    const parser = parserOf("primary", allocated);
    parser.push(header.subarray(0, HEADER_BYTES - 1));
    assert.throws(() => parser.push(header.subarray(HEADER_BYTES - 1)), ProtocolError, `bit ${bit}`);
    assert.deepEqual(allocated, [], `bit ${bit}`);
  }
});

test("a flipped bit in any payload is refused, and the broken message is not handed on", () => {
  for (const role of ROLES) {
    const joins = role === "backup" ? samples.onAnotherPath().slice(0, 1) : [];
    for (const one of [...samples.oneOfEach(role), ...joins]) {
      const payloadBytes = one.frame.byteLength - HEADER_BYTES;
      const greets = one.frame.type === "hello" || one.frame.type === "join";
      const before = role === "backup" && !greets ? prologue : [];
      for (let i = 0; i < payloadBytes * 8; i += 1 + Math.floor(payloadBytes / 20) * 8 + 3) {
        const bytes = samples.wire([one]);
        bytes[HEADER_BYTES + (i >> 3)]! ^= 1 << (i & 7);
        const seen: ReplicationMessage[] = [];
        const parser = new ReplicationParser({
          receiver: role,
          vmId: IDS.vmId,
          onMessage: (m) => seen.push(m),
        });
        parser.push(samples.wire(before));
        refuses("bad-payload-checksum", () => parser.push(bytes));
        assert.equal(seen.length, before.length);
      }
    }
  }
});

test("I6: a length above the cap of its type is refused on the 48th byte, and nothing is allocated", () => {
  for (const type of Object.keys(MESSAGES) as MessageType[]) {
    const { code, to, max, min } = MESSAGES[type];
    for (const length of [max + 1, 2 ** 31, 2 ** 32 - 1, ...(min > 0 ? [min - 1] : [])]) {
      const allocated: number[] = [];
      const role = to === "both" ? "primary" : to;
      const parser = parserOf(role, allocated);
      if (role === "backup" && type !== "hello" && type !== "join") parser.push(samples.wire(prologue));
      const before = allocated.length;
      const header = rawHeader({ type: code, length });
      parser.push(header.subarray(0, HEADER_BYTES - 1));
      const error = refuses("bad-length", () => parser.push(header.subarray(HEADER_BYTES - 1)));
      assert.match(
        error.message,
        new RegExp(`${type} payload length is ${length}, expected ${min}\\.\\.${max} bytes`),
      );
      assert.equal(allocated.length, before);
    }
  }
});

test("I6: oversized lengths by the thousand take no memory of the default allocator", () => {
  const before = process.memoryUsage().arrayBuffers;
  const parsers: ReplicationParser[] = [];
  for (let i = 0; i < 2000; i++) {
    const parser = new ReplicationParser({ receiver: "backup", onMessage: () => {} });
    parsers.push(parser);
    refuses("bad-length", () => parser.push(rawHeader({ type: MESSAGES.hello.code, length: 2 ** 32 - 1 })));
  }
  const grown = process.memoryUsage().arrayBuffers - before;
  // Each parser keeps its 48 bytes of header; with the payloads it would be 8 TiB.
  assert.ok(parsers.length === 2000 && grown < 4 << 20, `${grown} bytes`);
});

test("a payload is allocated once, at its exact size, after the whole header", () => {
  const allocated: number[] = [];
  const parser = parserOf("primary", allocated);
  const bytes = samples.wire([{ frame: encodeHeartbeat(IDS, 1) }, { frame: encodeAck(IDS, 1) }]);
  for (const byte of bytes) parser.push(Uint8Array.of(byte));
  assert.deepEqual(allocated, [8]);
});

test("an allocator that gives another size is a bug of ours and is not used", () => {
  const options = { receiver: "primary", onMessage: () => {}, allocate: () => new Uint8Array(9) } as const;
  const parser = new ReplicationParser(options);
  assert.throws(
    () => parser.push(samples.wire([{ frame: encodeHeartbeat(IDS, 1) }])),
    /allocate gave 9 bytes/,
  );
});

test("each field of the header defends itself and the error names it", () => {
  const wrong = (code: string, fields: Parameters<typeof rawHeader>[0], message: RegExp) =>
    assert.match(refuses(code, () => parserOf("primary").push(rawHeader(fields))).message, message);
  wrong("bad-magic", { at: 0, byte: 0x47 }, /magic is "0x474d5553", expected 0x524d5553/);
  wrong("bad-version", { at: 4, byte: 2 }, /version is 2, expected 1; run the same Remus/);
  wrong("bad-reserved", { at: 7, byte: 1 }, /reserved/);
  wrong("unknown-type", { type: 0 }, /type is 0, expected 1\.\.25/);
  wrong("unknown-type", { type: 26 }, /type is 26/);
  wrong("wrong-vm", { at: 8, byte: 0xff }, /VM id is "ff9f51c6-.*expected 0b9f51c6-/);
  wrong("bad-epoch", { type: MESSAGES.ack.code, length: 0, epochHigh: 1 << 21 }, /below 2\^53/);
  wrong("bad-epoch", { epochHigh: 1 }, /heartbeat epoch is 4294967296, expected 0/);
});

test("a message for the other side is refused", () => {
  for (const type of Object.keys(MESSAGES) as MessageType[]) {
    const { code, to, min } = MESSAGES[type];
    if (to === "both") continue;
    const other = to === "primary" ? "backup" : "primary";
    refuses("wrong-direction", () => parserOf(other).push(rawHeader({ type: code, length: min })));
  }
});

test("a backup hears HELLO or JOIN first and once, and LAYOUT before PAGES", () => {
  const all = samples.oneOfEach("backup");
  const [join] = samples.onAnotherPath();
  refuses("wrong-order", () => parserOf("backup").push(samples.wire([join!, join!])));
  refuses("wrong-order", () => parserOf("backup").push(samples.wire([join!, all[0]!])));
  refuses("wrong-order", () => parserOf("backup").push(samples.wire([all[0]!, join!])));
  for (const one of all.slice(1)) refuses("wrong-order", () => parserOf("backup").push(samples.wire([one])));
  refuses("wrong-order", () => parserOf("backup").push(samples.wire([all[0]!, all[0]!])));
  refuses("wrong-order", () => parserOf("backup").push(samples.wire([all[0]!, all[2]!])));
});

test("a backup that knows no VM yet learns it from HELLO and holds the primary to it", () => {
  const parser = new ReplicationParser({ receiver: "backup", onMessage: () => {} });
  parser.push(samples.wire(prologue));
  const other = { vmId: vmIdBytes("ffffffff-ffff-ffff-ffff-ffffffffffff"), generation: 7 };
  refuses("wrong-vm", () => parser.push(samples.wire([{ frame: encodeHeartbeat(other, 1) }])));
});

test("what HELLO and LAYOUT allow holds on every path that shares it, whichever of them brought it", () => {
  const first = parserOf("backup");
  const second = parserOf("backup");
  const [hello, layout, pages, , , disk] = samples.oneOfEach("backup");
  first.push(samples.wire([hello!]));
  second.push(samples.wire(samples.onAnotherPath().slice(0, 1)));
  second.share(first.bounds);
  refuses("wrong-order", () => parserOf("backup").push(samples.wire([hello!, pages!])));
  second.push(samples.wire([layout!, disk!]));
  first.push(samples.wire([pages!]));
  const beyond = samples.diskSample(1, [samples.diskEntry(0, 3, 5 * 1024, 513)]);
  refuses("bad-disk", () => second.push(samples.wire([beyond])));
});

test("after an error the parser is dead and says the same again", () => {
  const parser = parserOf("primary");
  const error = refuses("bad-magic", () => parser.push(Buffer.from(`GET / HTTP/1.1\r\n${"x".repeat(60)}`)));
  assert.throws(
    () => parser.push(samples.wire([{ frame: encodeAck(IDS, 1) }])),
    (again) => again === error,
  );
});

test("garbage is refused whatever it is, and never handed on", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: HEADER_BYTES, maxLength: 4000 }), (garbage) => {
      assert.throws(() => samples.parse("backup", [garbage]), ProtocolError);
    }),
  );
});

test("a stopped parser hands nothing on, not even the rest of the chunk", () => {
  const seen: number[] = [];
  const parser = new ReplicationParser({
    receiver: "primary",
    onMessage: (message) => {
      seen.push(message.epoch);
      parser.stop();
    },
  });
  parser.push(samples.wire([{ frame: encodeAck(IDS, 1) }, { frame: encodeAck(IDS, 2) }]));
  assert.deepEqual(seen, [1]);
});

test("a message cut off by the end of the stream shows as one", () => {
  const parser = parserOf("primary");
  assert.equal(parser.insideMessage, false);
  parser.push(samples.wire([{ frame: encodeAck(IDS, 1) }]).subarray(0, 20));
  assert.equal(parser.insideMessage, true);
});

test("a VM id goes from text to bytes and back; other text is refused", () => {
  assert.equal(uuidText(vmIdBytes(samples.VM_ID.toUpperCase())), samples.VM_ID);
  assert.throws(() => vmIdBytes("vm1"), /VM id "vm1" is not a UUID/);
});
