/** The torture's own eyes: which cells there are, and that frames of two owners are seen (I3). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { lateFrames } from "../../bench/partitions/round.ts";
import { allCells, cellsLike, nameOf } from "../../bench/torture/cells.ts";
import { type GuestFrame, judge } from "../../bench/torture/frame-watch.ts";
import { table } from "../../bench/torture/table.ts";

test("a pattern names cells: one, a row, all; what is no word of ours is refused with those that are", () => {
  assert.deepEqual(cellsLike("kill-host/before-capture/disk").map(nameOf), ["kill-host/before-capture/disk"]);
  assert.equal(cellsLike("kill-host").length, 18);
  assert.equal(cellsLike("*/after-release/cpu").length * 18, allCells.length);
  assert.equal(new Set(allCells.map(nameOf)).size, allCells.length);
  assert.throws(() => cellsLike("kill-host/capture"), /"capture" is none of before-capture, after-capture/);
  assert.throws(() => cellsLike("*/*/*/x"), /expected FAULT\/POINT\/LOAD/);
});

function seen(text: string): GuestFrame[] {
  return [...text].map((host, index) => ({ host: host as "a" | "b", atNs: BigInt(index) * 1_000_000n }));
}

test("I3: a frame of the old owner after the first one of the new is told, and how late it was", () => {
  assert.deepEqual(judge(seen("aaabb"), "a"), {
    frames: { a: 3, b: 2 },
    owners: ["a", "b"],
    late: 0,
    lateMs: 0,
  });
  const both = judge(seen("aabbab"), "a");
  assert.deepEqual([both.late, both.lateMs, both.owners.join("")], [1, 2, "abab"]);
  // Nothing was heard of the old owner before: it is still the one that must be silent.
  assert.equal(judge(seen("bba"), "a").late, 1);
  assert.equal(judge(seen("bba"), "b").late, 0);
});

test("I3: what the old owner sends after the witness has spoken is told, though the new one has sent nothing yet", () => {
  const frames = seen("aaaab");
  assert.equal(lateFrames(frames, "a", "b", 10_000_000n), 0);
  assert.equal(lateFrames(frames, "a", "b", 1_000_000n), 2);
  assert.equal(lateFrames(seen("aaba"), "a", "b", 10_000_000n), 1);
  assert.equal(lateFrames(seen("aabaa"), "a", "a", undefined), 1);
});

test("the table counts what went well, of what was played", () => {
  const cell = cellsLike("kill-host/before-capture/disk")[0]!;
  const played = [
    { cell, seed: 1, seconds: 1, wrong: [] },
    { cell, seed: 2, seconds: 1, wrong: ["the guest was booted anew"] },
  ];
  assert.match(table(played, 60), /kill-host +1\/2 +-/);
  assert.match(table(played, 60), /1 of 2 cells as they must be, in 1\.0 minutes/);
});
