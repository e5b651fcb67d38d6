// The two cores together, in a made-up world that checks the invariants after every step: see core-world.ts.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { World } from "./core-world.ts";

/**
 * Failures of a host, a link or a process; then those of parts, which end a protection without endangering
 * the VM.
 */
const FAILURES = [
  "cut",
  "backup-suspects",
  "primary-suspects",
  "hypervisor-hangs",
  "primary-dies",
  "backup-dies",
  "standby-fails",
  "commit-fails",
  "handover-expires",
  "handover-of-another-checkpoint",
];
const PARTS = ["capture-fails", "output-fails", "disk-breaks"];

interface Play {
  /** Where it begins: with nothing, with a protected VM, or with one that is to be handed over. */
  readonly from: "nothing" | "protected" | "switchover";
  /** Numbers that pick the next action, and how often to prefer the way of ordinary operation. */
  readonly picks: readonly number[];
  /** What fails, one after the other: each when it could have failed so many times before. */
  readonly faults: readonly { readonly name: string; readonly after: number }[];
}

/** @param failures at most so many of hosts, links and processes, and some of parts */
function plays(failures: number): fc.Arbitrary<Play> {
  const after = fc.oneof(fc.nat({ max: 4 }), fc.nat({ max: 80 }));
  const some = (names: readonly string[], maxLength: number) =>
    fc.array(fc.record({ name: fc.constantFrom(...names), after }), { maxLength, size: "max" });
  return fc
    .record({
      from: fc.constantFrom("nothing", "protected", "switchover"),
      picks: fc.array(fc.nat({ max: 997 }), { minLength: 20, maxLength: 250, size: "max" }),
      failures: some(FAILURES, failures),
      parts: some(PARTS, Math.min(failures, 1)),
      partsFirst: fc.boolean(),
    })
    .map(({ failures, parts, partsFirst, ...rest }) => ({
      ...rest,
      faults: partsFirst ? [...parts, ...failures] : [...failures, ...parts],
    }));
}

/** What happens in ordinary operation gets more turns than orders do. */
const USUAL =
  /^(to-|commit|captured|request|tick|first-pass|connect|emit|protect|verdict|standby|capture-ended|disk-fails)/;

function play(world: World, { from, picks, faults }: Play): void {
  if (from !== "nothing") protect(world);
  if (from === "switchover") world.take(world.actions().find(([name]) => name === "switchover")!);
  const left = faults.map((fault) => ({ ...fault }));
  for (const pick of picks) {
    const fault = [...world.failures(), ...world.partFailures()].find(([name]) => name === left[0]?.name);
    if (fault !== undefined && left[0]!.after-- === 0) {
      left.shift();
      world.take(fault);
      continue;
    }
    const all = world.actions();
    const usual = all.filter(([name]) => USUAL.test(name));
    const among = pick % 8 !== 0 && usual.length > 0 ? usual : all;
    if (among.length > 0) world.take(among[(pick >> 3) % among.length]!);
  }
}

/** Lets ordinary operation go on, in turn, until some checkpoints are acknowledged. */
function protect(world: World): void {
  for (let turn = 0; world.primary.phase !== "protected" || world.primary.acked < 2; turn++) {
    const usual = world.actions().filter(([name]) => USUAL.test(name));
    world.take(usual[turn % usual.length]!);
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
    fc.property(plays(5), (one) => {
      const world = new World();
      explain(world, () => {
        play(world, one);
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
    fc.property(plays(1), (one) => {
      const world = new World();
      explain(world, () => {
        play(world, one);
        // A primary that was about to end the protection, and then dies, has lost the VM: it was asked for.
        const wasProtected =
          ["armed", "arbitrating", "recovering", "running"].includes(world.backup.phase) &&
          world.primary.phase !== "leaving";
        const { primaryRuns, backupRuns } = world.settle();
        // Who has taken the VM in a switchover has it alone, and then dies with it.
        if ((world.primaryAlive || wasProtected) && !world.diedAsOwner)
          assert.ok(primaryRuns !== backupRuns, `primary runs: ${primaryRuns}, backup runs: ${backupRuns}`);
        assert.notEqual(world.primaryAlive && world.primary.phase, "handing-over", "nobody answers");
        if (primaryRuns && world.vmIsPaused)
          assert.ok(world.vmMayBePaused, `paused, ${world.primary.phase}, and nobody holds it`);
        if (primaryRuns && (!world.backupAlive || world.backup.phase === "stood-down")) {
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
    fc.property(plays(0), (one) => {
      const world = new World();
      explain(world, () => {
        play(world, one);
        const { primaryRuns, backupRuns } = world.settle();
        assert.ok(primaryRuns !== backupRuns);
        const handedOver = world.primary.phase === "superseded" && world.primary.planned;
        assert.equal(
          backupRuns,
          handedOver,
          "the VM runs at the backup if it was handed over, and only then",
        );
        if (primaryRuns && world.vmIsPaused) assert.ok(world.vmMayBePaused, "paused, and nobody holds it");
      });
    }),
    { numRuns: 500 },
  );
});

test("the made-up world gets anywhere at all: checkpoints are taken and released, failovers and solo runs happen", () => {
  const seen = new Set<string>();
  let frames = 0;
  fc.assert(
    fc.property(plays(1), (one) => {
      const world = new World();
      play(world, one);
      for (const action of world.log) seen.add(action);
      if (world.primary.phase === "superseded" && world.primary.planned) seen.add("switchovers");
      if ("acked" in world.primary && world.primary.acked > 3) seen.add("checkpoints");
      world.settle();
      frames += world.releasedFrames;
      seen.add(`primary ${world.primary.phase}`).add(`backup ${world.backup.phase}`);
    }),
    { numRuns: 600, seed: 1 },
  );
  for (const one of [
    "checkpoints",
    "switchovers",
    "standby-fails",
    "commit-fails",
    "disk-breaks",
    "disk-fails",
    "put-off",
    "handover-expires",
    "handover-of-another-checkpoint",
    "primary unprotected",
    "primary superseded",
    "backup running",
    "backup armed",
  ])
    assert.ok(seen.has(one), `never seen: ${one}; seen: ${[...seen].join(", ")}`);
  assert.ok(frames > 1000);
});
