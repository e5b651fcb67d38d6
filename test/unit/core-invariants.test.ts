// The two cores together, in a made-up world that checks the invariants after every step: see core-world.ts.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { World } from "./core-world.ts";

/** Numbers that pick the next action, and how often to prefer the way of ordinary operation. */
const plays = fc.array(fc.nat({ max: 997 }), { minLength: 20, maxLength: 250, size: "max" });

/** What happens in ordinary operation gets more turns than orders and faults do. */
const USUAL =
  /^(to-|commit|captured|request|tick|first-pass|connect|emit|protect|verdict|standby|capture-ended)/;

function play(world: World, picks: readonly number[], mostFaults: number): void {
  for (const pick of picks) {
    const all = world.actions(world.faults < mostFaults);
    const usual = all.filter(([name]) => USUAL.test(name));
    const among = pick % 8 !== 0 && usual.length > 0 ? usual : all;
    if (among.length > 0) world.take(among[(pick >> 3) % among.length]!);
  }
}

function explain(world: World, act: () => void): void {
  try {
    act();
  } catch (error) {
    const states = `primary ${JSON.stringify(world.primary)}\nbackup ${JSON.stringify(world.backup)}`;
    throw new Error(`${(error as Error).message}\nafter: ${world.log.join(", ")}\n${states}`, {
      cause: error,
    });
  }
}

test("I1, I2, I3: no sequence of events, with any number of faults, breaks them", () => {
  fc.assert(
    fc.property(plays, (picks) => {
      const world = new World();
      explain(world, () => {
        play(world, picks, Number.POSITIVE_INFINITY);
        const { primaryRuns, backupRuns } = world.settle();
        if (backupRuns && primaryRuns)
          assert.ok(
            world.outputIsHeld || world.primary.phase === "superseded",
            "I3: two copies release output",
          );
      });
    }),
    { numRuns: 1500 },
  );
});

test("I4: after one fault, wherever it strikes, a protected VM runs on in exactly one place with its output free", () => {
  fc.assert(
    fc.property(plays, (picks) => {
      const world = new World();
      explain(world, () => {
        play(world, picks, 1);
        // A primary that was about to end the protection, and then dies, has lost the VM: it was asked for.
        const wasProtected =
          ["armed", "arbitrating", "recovering", "running"].includes(world.backup.phase) &&
          world.primary.phase !== "leaving";
        const { primaryRuns, backupRuns } = world.settle();
        if (world.primaryAlive || wasProtected)
          assert.ok(primaryRuns !== backupRuns, `primary runs: ${primaryRuns}, backup runs: ${backupRuns}`);
        if (primaryRuns && world.vmIsPaused)
          assert.ok(world.vmMayBePaused, `paused, ${world.primary.phase}, and nobody holds it`);
        if (primaryRuns && !world.backupAlive) {
          const { phase } = world.primary;
          assert.ok(!world.outputIsHeld, `output is held for ever, ${phase}`);
          assert.ok(["unprotected", "connecting"].includes(phase), phase);
        }
      });
    }),
    { numRuns: 1500 },
  );
});

test("I5: without faults, orders alone never lose the VM, and it is paused only for who asked to hold it", () => {
  fc.assert(
    fc.property(plays, (picks) => {
      const world = new World();
      explain(world, () => {
        play(world, picks, 0);
        const { primaryRuns, backupRuns } = world.settle();
        assert.ok(primaryRuns && !backupRuns);
        if (world.vmIsPaused) assert.ok(world.vmMayBePaused, "paused, and nobody holds it");
      });
    }),
    { numRuns: 500 },
  );
});

test("the made-up world gets anywhere at all: checkpoints are taken and released, failovers and solo runs happen", () => {
  const seen = new Set<string>();
  let frames = 0;
  fc.assert(
    fc.property(plays, (picks) => {
      const world = new World();
      play(world, picks, 1);
      if ("acked" in world.primary && world.primary.acked > 3) seen.add("checkpoints");
      world.settle();
      frames += world.releasedFrames;
      seen.add(`primary ${world.primary.phase}`).add(`backup ${world.backup.phase}`);
    }),
    { numRuns: 300, seed: 1 },
  );
  for (const one of [
    "checkpoints",
    "primary unprotected",
    "primary superseded",
    "backup running",
    "backup armed",
  ])
    assert.ok(seen.has(one), `never seen: ${one}; seen: ${[...seen].join(", ")}`);
  assert.ok(frames > 1000);
});
