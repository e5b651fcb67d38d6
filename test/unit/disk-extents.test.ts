/** Arithmetic of ranges, against a plain array of bits. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { aligned, type Extent, strides, subtract, totalBytes, union } from "../../src/disk/extents.ts";

const END = 96;

/** Empty ones and such that touch or overlap among them. */
const extent: fc.Arbitrary<Extent> = fc
  .tuple(fc.nat({ max: END }), fc.nat({ max: 12 }))
  .map(([from, length]) => ({ from, to: Math.min(END, from + length) }));
const extents = fc.array(extent, { maxLength: 30 });

function bits(all: Iterable<Extent>): boolean[] {
  const set = new Array<boolean>(END).fill(false);
  for (const { from, to } of all) set.fill(true, from, to);
  return set;
}

/** In order, none empty, none touching the next. */
function assertApart(all: readonly Extent[]): void {
  let before = -1;
  for (const { from, to } of all) {
    assert.ok(from > before && to > from, JSON.stringify(all));
    before = to;
  }
}

test("union: the same bytes, in order, in as few extents as can be", () => {
  fc.assert(
    fc.property(extents, (all) => {
      const joined = union(all);
      assert.deepEqual(bits(joined), bits(all));
      assertApart(joined);
    }),
  );
});

test("union with a limit: within it, never less than was given, and what is added lies between neighbours that were nearest", () => {
  fc.assert(
    fc.property(extents, fc.integer({ min: 1, max: 8 }), (all, most) => {
      const exact = union(all);
      const joined = union(all, most);
      assert.ok(joined.length <= most, `${joined.length} extents`);
      assertApart(joined);
      if (exact.length <= most) assert.deepEqual(joined, exact);
      const [had, has] = [bits(all), bits(joined)];
      for (const [at, was] of had.entries()) assert.ok(has[at] || !was, `byte ${at} is missing`);
      // No gap was filled that is wider than one that was left.
      const gapsOf = (list: readonly Extent[]) => list.slice(1).map(({ from }, i) => from - list[i]!.to);
      const left = gapsOf(joined);
      const filled = exact
        .slice(1)
        .filter(({ from }) => has[from - 1])
        .map((one) => one.from - exact[exact.indexOf(one) - 1]!.to);
      assert.ok(Math.max(0, ...filled) < Math.min(END, ...left), `${filled} filled, ${left} left`);
    }),
  );
});

test("subtract: what is in the whole and in no hole", () => {
  fc.assert(
    fc.property(extent, extents, (whole, holes) => {
      const left = subtract(whole, holes);
      const inHoles = bits(holes);
      assert.deepEqual(
        bits(left),
        bits([whole]).map((inside, at) => inside && !inHoles[at]),
      );
      assertApart(left);
    }),
  );
});

test("strides: the same bytes in the same order, none longer than a stride or over its border", () => {
  fc.assert(
    fc.property(extents, fc.integer({ min: 1, max: 16 }), (all, most) => {
      const parts = [...strides(all, most)];
      assert.deepEqual(
        parts.flatMap(({ from, to }) => Array.from({ length: to - from }, (_, i) => from + i)),
        all.flatMap(({ from, to }) => Array.from({ length: to - from }, (_, i) => from + i)),
      );
      for (const { from, to } of parts)
        assert.ok(Math.floor(from / most) === Math.floor((to - 1) / most), `${from} to ${to} by ${most}`);
      assert.equal(totalBytes(parts), totalBytes(all));
    }),
  );
});

test("aligned: the least that covers it, from block to block, but not beyond the end", () => {
  fc.assert(
    fc.property(
      extent.filter(({ from, to }) => from < to),
      fc.integer({ min: 1, max: 40 }),
      (one, block) => {
        const { from, to } = aligned(one, block, END);
        assert.ok(from <= one.from && to >= one.to);
        assert.ok(one.from - from < block && to - one.to < block);
        assert.equal(from % block, 0);
        assert.ok(to === END || (to < END && to % block === 0));
      },
    ),
  );
});
