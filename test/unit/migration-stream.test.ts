import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  deviceStateLength,
  LONGEST_RECORD_BYTES,
  MigrationScanner,
  MigrationStreamError,
} from "../../src/codec/migration-stream.ts";
import { PAGE_BYTES } from "../../src/codec/replication.ts";
import {
  afterFirstPass,
  BLOCKS,
  be32,
  be64,
  blockList,
  CHECKPOINT,
  command,
  EOF,
  EOS,
  end,
  FIRST_PASS,
  FLAG,
  footer,
  header,
  page,
  part,
  Seen,
  scanAll,
  start,
  text8,
  zeroPage,
} from "./migration-samples.ts";

const FIRST_PASS_PAGES = ["0:0 zero", "0:1 a1..a1", "0:511 a2..a2", "2:1 a3..a3", "0:1 a4..a4", "1:15 zero"];
const CHECKPOINT_PAGES = ["1:3 b1..b1", "0:7 b2..b2", "0:8 zero"];

test("a first pass gives its header, its blocks and its pages, and stops where device state begins", () => {
  const seen = new Seen();
  const scanner = new MigrationScanner(seen);
  const stream = Buffer.concat([FIRST_PASS, Buffer.from([4, 0, 0, 0, 9])]);
  assert.equal(scanAll(scanner, seen, stream), FIRST_PASS.length);
  assert.equal(scanner.state, "devices");
  assert.deepEqual(Buffer.from(scanner.header), header());
  assert.deepEqual(
    scanner.blocks,
    BLOCKS.map(([name, pages], id) => ({ id, name, bytes: pages * PAGE_BYTES })),
  );
  assert.deepEqual(seen.words, FIRST_PASS_PAGES);
});

test("a return path that QEMU opens is noticed, by the command and not by the version; other commands are not taken for it", () => {
  const quiet = new MigrationScanner(new Seen());
  scanAll(quiet, new Seen(), FIRST_PASS);
  assert.equal(quiet.returnPath, false);
  const opened = new MigrationScanner(new Seen());
  const stream = Buffer.concat([
    header("pc-i440fx-11.1"),
    command(1),
    command(2, "\0\0\0\u0001"),
    start(),
    blockList(BLOCKS),
    EOS,
    footer(),
  ]);
  assert.equal(scanAll(opened, new Seen(), stream), stream.length);
  assert.equal(opened.returnPath, true);
});

test("a checkpoint's first record may lean on the block of the checkpoint before: the block carries over", () => {
  const { scanner, seen } = afterFirstPass();
  for (let round = 0; round < 2; round++) {
    scanner.beginCheckpoint();
    seen.words.length = 0;
    const stream = Buffer.concat([CHECKPOINT, Buffer.from("what follows")]);
    assert.equal(scanAll(scanner, seen, stream), CHECKPOINT.length);
    assert.equal(scanner.state, "end");
    // The first pass ended in block 1, this checkpoint in block 0.
    assert.deepEqual(
      seen.words,
      round === 0 ? CHECKPOINT_PAGES : ["0:3 b1..b1", ...CHECKPOINT_PAGES.slice(1)],
    );
  }
});

test("cut at every byte of its records, with what was not taken offered again, a stream gives the same pages as in one piece", () => {
  // Every cut of the small records; of a page's 4096 bytes the first and last ones and a few between.
  const cuts = (bytes: Buffer) =>
    Array.from({ length: bytes.length }, (_, at) => at).filter(
      (at) => bytes[at] !== bytes[at - 1] || bytes[at] !== bytes[at + 1] || at % 509 === 0,
    );
  for (const at of cuts(FIRST_PASS)) {
    const seen = new Seen();
    const scanner = new MigrationScanner(seen);
    seen.bytes = FIRST_PASS;
    const taken = scanner.scan(FIRST_PASS, 0, at);
    assert.ok(taken <= at && at - taken <= LONGEST_RECORD_BYTES, `cut at ${at}, taken ${taken}`);
    // What was taken may be overwritten or be gone by now; only the rest moves to the next buffer.
    const rest = FIRST_PASS.subarray(taken);
    assert.equal(scanAll(scanner, seen, Buffer.from(rest)), rest.length, `cut at ${at}`);
    assert.deepEqual(seen.words, FIRST_PASS_PAGES, `cut at ${at}`);
    assert.equal(scanner.state, "devices", `cut at ${at}`);
  }
  for (const at of cuts(CHECKPOINT)) {
    const { scanner, seen } = afterFirstPass();
    scanner.beginCheckpoint();
    seen.bytes = CHECKPOINT;
    const rest = Buffer.from(CHECKPOINT.subarray(scanner.scan(CHECKPOINT, 0, at)));
    assert.equal(scanAll(scanner, seen, rest), rest.length, `cut at ${at}`);
    assert.deepEqual(seen.words, CHECKPOINT_PAGES, `cut at ${at}`);
    assert.equal(scanner.state, "end", `cut at ${at}`);
  }
});

test("byte by byte, a stream gives the same pages as in one piece", () => {
  const seen = new Seen();
  const scanner = new MigrationScanner(seen);
  seen.bytes = FIRST_PASS;
  let taken = 0;
  for (let to = 0; to <= FIRST_PASS.length; to++) taken = scanner.scan(FIRST_PASS, taken, to);
  assert.equal(taken, FIRST_PASS.length);
  assert.deepEqual(seen.words, FIRST_PASS_PAGES);
});

test("page numbers beyond 4 GiB are right", () => {
  const seen = new Seen();
  const scanner = new MigrationScanner(seen);
  const pages = (5 * 2 ** 30) / PAGE_BYTES;
  const list = Buffer.concat([
    be64(pages * PAGE_BYTES + FLAG.memSize),
    text8("pc.ram"),
    be64(pages * PAGE_BYTES),
  ]);
  scanAll(scanner, seen, Buffer.concat([header(), start(), list, zeroPage("pc.ram", pages - 1), EOS]));
  assert.deepEqual(seen.words, [`0:${pages - 1} zero`]);
});

test("what a checkpoint cannot be replicated from is refused, and the message says what it is", () => {
  const opened = [header(), start(), blockList(BLOCKS)];
  const xbzrle = Buffer.concat([be64(4096 + FLAG.xbzrle), text8("pc.ram"), Buffer.of(1, 0, 9)]);
  const compressed = Buffer.concat([be64(4096 + 0x100), text8("pc.ram"), be32(9)]);
  const filled = Buffer.concat([be64(4096 + FLAG.zero), text8("pc.ram"), Buffer.of(0xee)]);
  const cases: [RegExp, Buffer[]][] = [
    [/magic 0x5145564e/, [Buffer.from("QEVN"), be32(3), Buffer.alloc(9)]],
    [/version 2, not 3/, [Buffer.from("QEVM"), be32(2), Buffer.alloc(9)]],
    [/0x1 where the configuration should be/, [Buffer.from("QEVM"), be32(3), start()]],
    [/machine name of 4294967295 bytes/, [Buffer.from("QEVM"), be32(3), Buffer.of(7), be32(0xffffffff)]],
    [/configuration subsection/, [header(), Buffer.of(5)]],
    [/"slirp" is sent live/, [header(), start("slirp")]],
    [/RAM section version 3/, [header(), start("ram", 3)]],
    [/section 9 is not RAM/, [...opened, EOS, footer(), part(9)]],
    [/section type 0x4/, [...opened, EOS, footer(), Buffer.of(4)]],
    [/no footer after RAM section 2/, [...opened, EOS, footer(3)]],
    [/no footer/, [...opened, EOS, part()]],
    [/flags 0x40; is xbzrle/, [...opened, xbzrle]],
    [/flags 0x100; is xbzrle/, [...opened, compressed]],
    [/filled with 0xee/, [...opened, filled]],
    [/"pc.rom" that was not announced/, [...opened, page("pc.rom", 0, 1)]],
    [/before any RAM block was named/, [...opened, page(undefined, 0, 1)]],
    [/page 512 outside of RAM block pc.ram/, [...opened, page("pc.ram", 512, 1)]],
    [/page 2 outside of RAM block \/rom@etc/, [...opened, page("/rom@etc/acpi/tables", 2, 1)]],
    [/page 1048576 outside/, [...opened, Buffer.from("0000000100000008", "hex"), text8("pc.ram"), EOS]],
    [/a RAM block of no length/, [header(), start(), be64(4096 + 4), text8("pc.ram"), be64(0)]],
  ];
  for (const [message, parts] of cases) {
    const seen = new Seen();
    const scanner = new MigrationScanner(seen);
    const refused = (error: Error) => error instanceof MigrationStreamError && message.test(error.message);
    assert.throws(() => scanAll(scanner, seen, Buffer.concat(parts)), refused, String(message));
  }
});

test("after a new, shorter block list the block of the record before is forgotten: a record without a name is refused", () => {
  const seen = new Seen();
  const scanner = new MigrationScanner(seen);
  const parts = [
    ...[header(), start(), blockList(BLOCKS), page("/rom@etc/acpi/tables", 0, 1)],
    ...[blockList(BLOCKS.slice(0, 1)), page(undefined, 0, 1)],
  ];
  assert.throws(
    () => scanAll(scanner, seen, Buffer.concat(parts)),
    (error: Error) => error instanceof MigrationStreamError && /before any RAM block/.test(error.message),
  );
});

test("a first pass that ends before its last RAM section is refused, and not read on as device state", () => {
  const seen = new Seen();
  const scanner = new MigrationScanner(seen);
  const parts = [header(), start(), blockList(BLOCKS), page("pc.ram", 0, 1), EOS, footer(), EOF];
  assert.throws(
    () => scanAll(scanner, seen, Buffer.concat(parts)),
    (error: Error) =>
      error instanceof MigrationStreamError && /before its last RAM section/.test(error.message),
  );
});

test("I6: a block list that never ends is refused before it fills memory", () => {
  const scanner = new MigrationScanner(new Seen());
  const entries = Array.from({ length: 20_000 }, () => Buffer.concat([text8("x"), be64(1)]));
  const stream = Buffer.concat([header(), start(), be64(2 ** 40 + FLAG.memSize), ...entries]);
  assert.throws(() => scanner.scan(stream, 0, stream.length), /a RAM block list without an end/);
});

test("random bytes in place of a stream, or in the midst of one, end in an error or in a wait, never in anything else", () => {
  const flips = fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 })), { minLength: 1, maxLength: 8 });
  const structure = Array.from({ length: FIRST_PASS.length }, (_, at) => at).filter(
    (at) => FIRST_PASS[at] !== FIRST_PASS[at - 1],
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), flips, fc.boolean(), (noise, changes, checkpoint) => {
      const stream = Buffer.from(FIRST_PASS);
      for (const [where, value] of changes) stream[structure[where % structure.length]!] = value;
      for (const bytes of [stream, Buffer.concat([header(), start(), noise]), Buffer.from(noise)]) {
        const { scanner, seen } = checkpoint ? afterFirstPass() : fresh();
        if (checkpoint) scanner.beginCheckpoint();
        seen.bytes = bytes;
        try {
          const taken = scanner.scan(bytes, 0, bytes.length);
          assert.ok(taken >= 0 && taken <= bytes.length);
        } catch (error) {
          if (!(error instanceof MigrationStreamError)) throw error;
        }
      }
    }),
    { numRuns: 300 },
  );
});

function fresh(): { scanner: MigrationScanner; seen: Seen } {
  const seen = new Seen();
  return { scanner: new MigrationScanner(seen), seen };
}

const DEVICES = Buffer.concat([
  Buffer.of(4),
  be32(7),
  text8("timer"),
  be32(0),
  be32(2),
  be64(99),
  footer(7),
  EOF,
]);
const description = (json: string) => Buffer.concat([Buffer.of(6), be32(json.length), Buffer.from(json)]);

test("the device state of a first pass ends where end-of-file and description match, and not one byte earlier", () => {
  const json = JSON.stringify({ configuration: {}, page_size: 4096, devices: [{ name: "timer", a: {} }] });
  const whole = Buffer.concat([DEVICES, description(json)]);
  assert.equal(deviceStateLength(whole), DEVICES.length);
  for (let length = 0; length < whole.length; length++)
    assert.equal(deviceStateLength(whole.subarray(0, length)), -1, `with ${length} of ${whole.length} bytes`);
});

test("the shortest description there is, {}, ends the device state", () => {
  assert.equal(deviceStateLength(Buffer.concat([DEVICES, description("{}")])), DEVICES.length);
  assert.equal(deviceStateLength(Buffer.concat([EOF, description("{}")])), 1);
});

test("device state that looks like a description inside does not end it early", () => {
  const inner = Buffer.concat([Buffer.of(0), description('{"not":"the end"}')]);
  const whole = Buffer.concat([inner, DEVICES, description('{"devices":[]}')]);
  assert.equal(deviceStateLength(whole), inner.length + DEVICES.length);
  assert.equal(deviceStateLength(Buffer.concat([inner, DEVICES, Buffer.from("}")])), -1);
});

test("the end of a checkpoint's RAM part is its end-of-file byte, though all of its records are zero pages", () => {
  const { scanner, seen } = afterFirstPass();
  scanner.beginCheckpoint();
  const zeroes = Array.from({ length: 300 }, (_, n) => zeroPage(n === 0 ? "pc.ram" : undefined, n));
  const stream = Buffer.concat([end(), ...zeroes, EOS, footer(), EOF]);
  assert.equal(scanAll(scanner, seen, stream), stream.length);
  assert.equal(scanner.state, "end");
  assert.equal(seen.words.length, 300);
});
