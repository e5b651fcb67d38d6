import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { COLO, coloMessage, coloName } from "../../src/codec/colo.ts";
import { composeStream } from "../../src/codec/migration-compose.ts";
import { MigrationScanner } from "../../src/codec/migration-stream.ts";
import { PAGE_BYTES } from "../../src/codec/replication.ts";
import { be32, header, Seen, scanAll } from "./migration-samples.ts";

const shapes = fc.uniqueArray(
  fc.record({
    name: fc.string({ minLength: 1, maxLength: 80, unit: "binary-ascii" }),
    pages: fc.integer({ min: 1, max: 5 }),
  }),
  { minLength: 1, maxLength: 6, selector: ({ name }) => name },
);

test("a composed stream, read again, has the header, the blocks and every page of the side blocks, none of the RAM file's", () => {
  fc.assert(
    fc.property(shapes, fc.uint8Array({ minLength: 1, maxLength: 50 }), (blocksOf, device) => {
      const blocks = blocksOf.map(({ name, pages }, id) => ({ id, name, bytes: pages * PAGE_BYTES }));
      const side = blocks.slice(1).map((block) => ({
        block,
        contents: Uint8Array.from({ length: block.bytes }, (_, at) => (at >> 12) * 16 + block.id),
      }));
      const stream = Buffer.concat(composeStream({ header: header(), blocks, side, device }));
      const seen = new Seen();
      const scanner = new MigrationScanner(seen);
      const taken = scanAll(scanner, seen, stream);
      assert.equal(scanner.state, "devices");
      assert.deepEqual(Buffer.from(scanner.header), header());
      assert.deepEqual(scanner.blocks, blocks);
      const expected = side.flatMap(({ block }) =>
        Array.from({ length: block.bytes / PAGE_BYTES }, (_, page) => {
          const byte = (page * 16 + block.id).toString(16);
          return `${block.id}:${page} ${byte}..${byte}`;
        }),
      );
      assert.deepEqual(seen.words, expected);
      const description = Buffer.concat([Buffer.of(6), be32(2), Buffer.from("{}")]);
      assert.deepEqual(stream.subarray(taken), Buffer.concat([device, description]));
    }),
    { numRuns: 60 },
  );
});

test("pages that are all zero are sent as well: under -incoming a block may hold something else", () => {
  const block = { id: 1, name: "pc.rom", bytes: 2 * PAGE_BYTES };
  const from = {
    header: header(),
    blocks: [block],
    side: [{ block, contents: new Uint8Array(block.bytes) }],
  };
  const seen = new Seen();
  scanAll(
    new MigrationScanner(seen),
    seen,
    Buffer.concat(composeStream({ ...from, device: Uint8Array.of(0) })),
  );
  assert.deepEqual(seen.words, ["0:0 0..0", "0:1 0..0"]);
});

test("COLO's messages have QEMU's numbers, four bytes each, and a name for errors", () => {
  assert.deepEqual(Object.keys(COLO), [
    "READY",
    "REQUEST",
    "REPLY",
    "VMSTATE_SEND",
    "VMSTATE_SIZE",
    "RECEIVED",
    "LOADED",
  ]);
  for (const [index, [name, value]] of Object.entries(COLO).entries()) {
    assert.equal(value, index);
    assert.deepEqual([...coloMessage(value)], [0, 0, 0, index]);
    assert.equal(coloName(value), name);
  }
  assert.equal(coloName(0x51), "0x51");
});
