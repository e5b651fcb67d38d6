// Named scenarios of two hosts, played in the simulator's world: the production guardians and core, and
// made-up hosts, links and a witness. Each says which story it tells; the judge (test/sim/world/checker.ts)
// looks for I1 to I6 all the time.

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { Player } from "../sim/many.ts";
import { CHAPTERS } from "../sim/scenarios/all.ts";

/** What the story leaves open, so many times anew: when in an epoch it begins, and how long things take. */
const TIMES = 3;

const player = new Player();
after(() => player.end());

for (const [chapter, scenarios] of Object.entries(CHAPTERS))
  describe(chapter, () => {
    for (const { name } of scenarios)
      test(name, async () => {
        const { transcript, violation } = await player.tell({ scenario: name, times: TIMES });
        assert.equal(violation, undefined, `${violation}\n${transcript.slice(-60).join("\n")}`);
      });
  });

test("no two scenarios have one name, and each has a story", () => {
  const all = Object.values(CHAPTERS).flat();
  assert.equal(new Set(all.map(({ name }) => name)).size, all.length);
  for (const { name, story } of all) assert.ok(story.length > 20, name);
});
