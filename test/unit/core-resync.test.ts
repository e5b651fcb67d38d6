import assert from "node:assert/strict";
import { test } from "node:test";
import { type Baseline, countsNow, type OldImage, resyncWay } from "../../src/core/resync.ts";

const baseline: Baseline = { session: "s", since: 7, bitmap: "notes" };
const replica: OldImage = { state: "replica", session: "s", durableEpoch: 7 };
const owner: OldImage = { state: "owner", session: "s", suspects: [] };

const WAYS: readonly [string, OldImage | undefined, Baseline | undefined, "blank" | "compare" | "records"][] =
  [
    ["nothing is known of the image", undefined, baseline, "compare"],
    ["it is a mixture", { state: "unknown" }, baseline, "compare"],
    ["it is a mixture, whatever else is said of it", { ...replica, state: "unknown" }, baseline, "compare"],
    ["it is blank, whatever is on record", { state: "blank" }, baseline, "blank"],
    ["it is blank", { state: "blank" }, undefined, "blank"],
    ["a replica without a record of ours", replica, undefined, "compare"],
    ["a replica that is safe where our record begins", replica, baseline, "records"],
    ["a replica that is safe beyond", { ...replica, durableEpoch: 8 }, baseline, "records"],
    [
      "a replica that may lack what is older than our record",
      { ...replica, durableEpoch: 6 },
      baseline,
      "compare",
    ],
    ["a replica of which nothing is safe", { state: "replica", session: "s" }, baseline, "compare"],
    [
      "a replica of which nothing is safe, and a record from the first pass on",
      { state: "replica", session: "s" },
      { ...baseline, since: 0 },
      "compare",
    ],
    ["a replica of another session", { ...replica, session: "t" }, baseline, "compare"],
    ["the old primary's, with its intents", owner, baseline, "records"],
    ["the old primary's, without", { state: "owner", session: "s" }, baseline, "compare"],
    ["the old primary's, of another session", { ...owner, session: "t" }, baseline, "compare"],
    ["the old primary's, without a record of ours", owner, undefined, "compare"],
  ];

for (const [name, image, record, plan] of WAYS)
  test(`a resync goes by ${plan}: ${name} (I7)`, () => {
    const way = resyncWay(image, record);
    assert.equal(way.plan, plan);
    if (way.plan === "records") assert.equal(way.bitmap, "notes");
    assert.ok(way.why.length > 20);
  });

test("a record counts once everything before it is safe at the backup, of the same session", () => {
  assert.equal(countsNow(baseline, "s", 6), false);
  assert.equal(countsNow(baseline, "s", 7), true);
  assert.equal(countsNow(baseline, "t", 8), false);
  assert.equal(countsNow(undefined, "s", 8), false);
});
