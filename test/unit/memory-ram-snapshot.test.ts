import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { PAGE_BYTES } from "../../src/codec/replication.ts";
import { RamSnapshot } from "../../src/memory/ram-snapshot.ts";

const PAGES = 9;

/** Changes of pages, and turns of the copying, in any order. */
const steps = fc.array(
  fc.oneof(
    fc.record({ change: fc.nat(PAGES - 1), to: fc.integer({ min: 0, max: 255 }) }),
    fc.record({ copy: fc.nat(4) }),
  ),
  { maxLength: 40 },
);

test("the copy is the RAM at its instant, whatever changes meanwhile, and whole when it says so", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: PAGES, maxLength: PAGES }), steps, (firsts, script) => {
      const ram = new Uint8Array(PAGES * PAGE_BYTES);
      const touched = new Uint8Array(PAGES);
      const write = (page: number, value: number) => {
        ram.fill(value, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
        touched[page] = 1;
      };
      for (const [page, value] of firsts.entries()) if (value % 3 > 0) write(page, value);
      const before = ram.slice();
      const target = new Uint8Array(ram.length);
      const copy = new RamSnapshot(ram, touched, target);
      for (const step of script)
        if ("copy" in step) copy.copyOn(step.copy);
        else {
          copy.keep(step.change);
          write(step.change, step.to);
        }
      assert.ok(copy.copyOn(PAGES + 1));
      assert.deepEqual(target, before);
      assert.ok(copy.copyOn(0) || copy.copyOn(1));
    }),
  );
});

test("a page that was copied before it changed is copied no more, and turns are as long as they are told to be", () => {
  const ram = new Uint8Array(4 * PAGE_BYTES).fill(1);
  const target = new Uint8Array(ram.length);
  const copy = new RamSnapshot(ram, new Uint8Array(4).fill(1), target);
  copy.keep(3);
  ram.fill(2);
  copy.keep(3);
  assert.equal(target[3 * PAGE_BYTES], 1);
  assert.equal(copy.copyOn(2), false);
  assert.deepEqual([target[0], target[PAGE_BYTES], target[2 * PAGE_BYTES]], [2, 2, 0]);
  assert.throws(() => new RamSnapshot(ram, new Uint8Array(4), new Uint8Array(1)), /a copy of 1 bytes/);
});
