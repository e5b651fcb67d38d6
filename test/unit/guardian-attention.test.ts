// A primary that was not there for a while must not release output for acks that lay in its socket (I3).

import assert from "node:assert/strict";
import { test } from "node:test";
import { Attention } from "../../src/guardian/attention.ts";

test("what is heard in time is not late", () => {
  const attention = new Attention(200, 0);
  for (let now = 25; now < 1000; now += 25) {
    attention.look(now, now - 90);
    assert.equal(attention.heardLate(now + 10), false);
  }
});

test("the first thing heard after this process stood still is late, be it before the clock is looked at or after", () => {
  const before = new Attention(200, 0);
  before.look(25, 20);
  assert.equal(before.heardLate(25 + 101), true);
  assert.equal(before.heardLate(25 + 102), false);
  const after = new Attention(200, 0);
  after.look(25, 20);
  after.look(25 + 101, 25 + 101);
  assert.equal(after.heardLate(25 + 102), true);
  assert.equal(after.heardLate(25 + 103), false);
});

test("the first thing heard after a silence of half the detection time is late, whatever came without being asked about", () => {
  const attention = new Attention(200, 0);
  for (const now of [25, 50, 75, 100, 125]) attention.look(now, 20);
  attention.look(150, 140);
  assert.equal(attention.heardLate(151), true);
});

test("without a link nothing is late", () => {
  const attention = new Attention(200, 0);
  for (const now of [50, 100, 150, 200, 250]) attention.look(now, undefined);
  assert.equal(attention.heardLate(251), false);
});
