// A broken rule must be found: each of the bugs of test/sim/bugs.ts is planted into the production code as it
// is loaded, and looked for in random worlds in which what could show it goes wrong more often than
// elsewhere. Those that have no such focus take longer: `npm run sim -- --planted` looks for all.

import assert from "node:assert/strict";
import { availableParallelism } from "node:os";
import { test } from "node:test";
import { BUGS, WIDE_BUGS } from "../sim/bugs.ts";
import { huntAll, Player } from "../sim/many.ts";

const MOST_RUNS = 400;

test("every planted bug with a focus is found", async () => {
  const threads = Math.min(2, availableParallelism());
  const sample = Object.keys(BUGS).filter((bug) => !(bug in WIDE_BUGS));
  const hunts = await huntAll(sample, { most: MOST_RUNS, focused: true, threads, told: () => {} });
  assert.ok(hunts.length >= 12);
  assert.deepEqual(
    hunts.filter(({ found }) => found === undefined).map(({ bug }) => bug),
    [],
  );
});

test("a bug whose place in the code is gone is an error, not a bug that is not found", async () => {
  const player = new Player([{ file: "core/primary.ts", find: "no such line", put: "" }]);
  await assert.rejects(player.play({ from: 1, to: 2 }), /has not exactly one place that reads: no such line/);
  await player.end();
});
