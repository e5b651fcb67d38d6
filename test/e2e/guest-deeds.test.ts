/**
 * An operator's pause stays, whatever is done with protection, and no checkpoint lets the VM run (I5;
 * docs/guests.md).
 */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { eventually } from "./lab-session.ts";
import { SmallVm } from "./small-vm.ts";

const WITHIN_MS = 30_000;

async function protectedVm(t: TestContext, extraArgs: string[] = []) {
  const small = await SmallVm.start(t, { extraArgs });
  const protection = small.protect();
  await eventually("checkpoint 3", () => small.captured >= 3, WITHIN_MS);
  return { small, protection };
}

/**
 * A `stop` that meets the pause of a checkpoint is lost in QEMU: whoever says it looks, and says it again.
 */
async function pause(small: SmallVm): Promise<void> {
  await eventually(
    "the operator's pause",
    async () => {
      await small.qemu.qmp.execute("stop");
      return (await small.status()) === "paused" && small.vm.standstill?.state === "paused";
    },
    WITHIN_MS,
  );
}

const goesOn = async (small: SmallVm) => {
  const { captured } = small;
  await eventually("checkpoints go on", () => small.captured >= captured + 3, WITHIN_MS);
  await small.counts();
};

test("I5: an operator's pause stays while the VM is protected, when protection ends, and before it begins; cont brings checkpoints back", async (t) => {
  const { small, protection } = await protectedVm(t);
  await pause(small);
  // The checkpoint that was under way is told of a moment after the pause.
  await new Promise((over) => setTimeout(over, 300));
  const [captured, count] = [small.captured, small.count];
  // QEMU asks for a checkpoint all the same; more than one of them would have come about by then.
  await protection.remind();
  await new Promise((over) => setTimeout(over, 300));
  assert.deepEqual([await small.status(), small.captured - captured, small.count - count], ["paused", 0, 0]);
  await small.qemu.qmp.execute("cont");
  await goesOn(small);

  await pause(small);
  await small.stop(protection);
  assert.equal(await small.status(), "paused");
  assert.equal(small.vm.standstill?.state, "paused");
  const stood = small.count;
  // With a protection that begins meanwhile it is not let run, either.
  const next = small.protect();
  await new Promise((over) => setTimeout(over, 300));
  assert.deepEqual([await small.status(), small.captured, small.count - stood], ["paused", -1, 0]);
  await small.qemu.qmp.execute("cont");
  await goesOn(small);
  await small.stop(next);
  assert.equal(await small.status(), "running");
  assert.deepEqual(small.failures, []);
});
