// The simulator itself: that it is what it says, sees what it should, and replays. Thousands of runs are `npm
// run sim`'s affair.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Player } from "../sim/many.ts";

const players = [new Player(), new Player()] as const;
after(() => Promise.all(players.map((player) => player.end())));

test("I1 to I6: some dozens of random worlds, with everything in them that can go wrong", async () => {
  const [player] = players;
  const { seen, violations } = await player.play({ from: 1, to: 101 });
  assert.deepEqual(violations, []);
  // A world in which nothing happens finds nothing.
  for (const what of [
    "backup recovering → backup running",
    "backup running → primary unprotected",
    "primary arbitrating → primary ending",
    "primary arbitrating → primary superseded",
    "primary handing-over → primary superseded",
    "primary leaving → primary ending",
    "primary superseded → backup waiting",
    "disks: quick resync",
    "disks: resync by comparing",
    "protected again by itself",
    "starts from the disk",
  ])
    assert.ok((seen[what] ?? 0) > 0, `never seen: ${what}; seen: ${JSON.stringify(seen, undefined, 1)}`);
});

test("the same seed gives the same transcript, whatever was played before", async () => {
  const [one, other] = players;
  for (const seed of [7, 8, 9]) {
    const first = await one.retell(seed);
    assert.ok(first.transcript.length > 15);
    assert.deepEqual(await other.retell(seed), first);
    assert.deepEqual(await one.retell(seed), first);
  }
});

test("an hour of bad and good times in turn is one run, in which the roles are swapped again and again", async () => {
  const { seen, violations } = await players[1].play({ from: 7, to: 8, hours: 0.06 });
  assert.deepEqual(violations, []);
  assert.ok((seen["goes on on the other host"] ?? 0) > 5, JSON.stringify(seen, undefined, 1));
});
