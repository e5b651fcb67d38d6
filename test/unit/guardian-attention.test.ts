// A primary that was not there for a while must not release output for acks that lay in its socket (I3).

import assert from "node:assert/strict";
import { test } from "node:test";
import { Attention, type Heard } from "../../src/guardian/watch/attention.ts";

class Path implements Heard {
  lastHeardMs = 20;
}

test("what is heard in time is not late", () => {
  const attention = new Attention(200, 0);
  const path = new Path();
  for (let now = 25; now < 1000; now += 25) {
    path.lastHeardMs = now - 90;
    attention.look(now, [path]);
    assert.equal(attention.heardLate(now + 10, path), false);
  }
});

test("the first thing heard after this process stood still is late, be it before the clock is looked at or after", () => {
  for (const looksFirst of [false, true]) {
    const attention = new Attention(200, 0);
    const path = new Path();
    attention.look(25, [path]);
    if (looksFirst) {
      path.lastHeardMs = 25 + 101;
      attention.look(25 + 101, [path]);
    }
    assert.equal(attention.heardLate(25 + 102, path), true);
    assert.equal(attention.heardLate(25 + 103, path), false);
  }
});

test("the first thing heard after a silence of half the detection time is late, whatever came without being asked about", () => {
  const attention = new Attention(200, 0);
  const path = new Path();
  for (const now of [25, 50, 75, 100, 125]) attention.look(now, [path]);
  path.lastHeardMs = 140;
  attention.look(150, [path]);
  assert.equal(attention.heardLate(151, path), true);
});

test("without a link nothing is late", () => {
  const attention = new Attention(200, 0);
  for (const now of [50, 100, 150, 200, 250]) attention.look(now, []);
  assert.equal(attention.heardLate(251, undefined), false);
});

test("I3: an ack that lay in a path which stood still is late, however lately the backup was heard on another one", () => {
  const attention = new Attention(200, 0);
  const still = new Path();
  const well = new Path();
  for (let now = 25; now <= 150; now += 25) {
    well.lastHeardMs = now;
    attention.look(now, [still, well]);
    assert.equal(attention.heardLate(now, well), false);
  }
  assert.equal(attention.heardLate(151, still), true);
  assert.equal(attention.heardLate(152, still), false, "once");
});

test("I3: after this process stood still, every path may bring what is old; who was told once trusts none of it", () => {
  const attention = new Attention(200, 0);
  const paths = [new Path(), new Path()];
  attention.look(25, paths);
  assert.equal(attention.heardLate(25 + 101, paths[1]), true);
  assert.equal(attention.heardLate(25 + 102, paths[0]), false);
});
