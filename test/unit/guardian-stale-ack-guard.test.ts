// A primary that was not there for a while must not release output for acks that lay in its socket (I3).

import assert from "node:assert/strict";
import { test } from "node:test";
import { type Heard, StaleAckGuard } from "../../src/guardian/watch/stale-ack-guard.ts";

class Path implements Heard {
  lastHeardMs = 20;
}

test("what is heard in time is not late", () => {
  const staleAcks = new StaleAckGuard(200, 0);
  const path = new Path();
  for (let now = 25; now < 1000; now += 25) {
    path.lastHeardMs = now - 90;
    staleAcks.look(now, [path]);
    assert.equal(staleAcks.heardLate(now + 10, path), false);
  }
});

test("the first thing heard after this process stood still is late, be it before the clock is looked at or after", () => {
  for (const looksFirst of [false, true]) {
    const staleAcks = new StaleAckGuard(200, 0);
    const path = new Path();
    staleAcks.look(25, [path]);
    if (looksFirst) {
      path.lastHeardMs = 25 + 101;
      staleAcks.look(25 + 101, [path]);
    }
    assert.equal(staleAcks.heardLate(25 + 102, path), true);
    assert.equal(staleAcks.heardLate(25 + 103, path), false);
  }
});

test("the first thing heard after a silence of half the detection time is late, whatever came without being asked about", () => {
  const staleAcks = new StaleAckGuard(200, 0);
  const path = new Path();
  for (const now of [25, 50, 75, 100, 125]) staleAcks.look(now, [path]);
  path.lastHeardMs = 140;
  staleAcks.look(150, [path]);
  assert.equal(staleAcks.heardLate(151, path), true);
});

test("without a link nothing is late", () => {
  const staleAcks = new StaleAckGuard(200, 0);
  for (const now of [50, 100, 150, 200, 250]) staleAcks.look(now, []);
  assert.equal(staleAcks.heardLate(251, undefined), false);
});

test("I3: an ack that lay in a path which stood still is late, however lately the backup was heard on another one", () => {
  const staleAcks = new StaleAckGuard(200, 0);
  const still = new Path();
  const well = new Path();
  for (let now = 25; now <= 150; now += 25) {
    well.lastHeardMs = now;
    staleAcks.look(now, [still, well]);
    assert.equal(staleAcks.heardLate(now, well), false);
  }
  assert.equal(staleAcks.heardLate(151, still), true);
  assert.equal(staleAcks.heardLate(152, still), false, "once");
});

test("I3: after this process stood still, every path may bring what is old; who was told once trusts none of it", () => {
  const staleAcks = new StaleAckGuard(200, 0);
  const paths = [new Path(), new Path()];
  staleAcks.look(25, paths);
  assert.equal(staleAcks.heardLate(25 + 101, paths[1]), true);
  assert.equal(staleAcks.heardLate(25 + 102, paths[0]), false);
});
