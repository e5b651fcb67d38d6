/**
 * A guest's own end under protection, as its primary sees it: the VM is over, no checkpoint is begun any more, and the protection ends with QEMU (docs/guests.md). What
 * the two guardians do then is in protection.test.ts and start-up.test.ts.
 */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { eventually } from "./lab-session.ts";
import { type Deed, SmallVm } from "./small-vm.ts";

const WITHIN_MS = 30_000;

interface End {
  readonly what: string;
  readonly deed: Deed;
  readonly how: string;
  readonly extraArgs: string[];
}

const SHUT_DOWN = "the guest has shut down";
const ENDS: readonly End[] = [
  { what: "power off", deed: "power-off", how: SHUT_DOWN, extraArgs: [] },
  { what: "power off with -no-shutdown", deed: "power-off", how: SHUT_DOWN, extraArgs: ["-no-shutdown"] },
  {
    what: "a panic",
    deed: "panic",
    how: "the guest has panicked",
    extraArgs: ["-device", "pvpanic"],
  },
  {
    what: "a panic with panic=pause",
    deed: "panic",
    how: "the guest has panicked",
    extraArgs: ["-device", "pvpanic", "-action", "panic=pause"],
  },
  {
    what: "a reboot with -no-reboot",
    deed: "reset",
    how: "the guest has rebooted, which is to end it (reboot=shutdown)",
    extraArgs: ["-no-reboot"],
  },
];

async function ends(t: TestContext, { deed, extraArgs, how, what }: End): Promise<void> {
  const small = await SmallVm.start(t, { disk: true, extraArgs });
  const protection = small.protect();
  await eventually("checkpoint 3", () => small.captured >= 3, WITHIN_MS);
  small.does(deed);
  await eventually(what, () => small.endings.length > 0, WITHIN_MS);
  const { putOff } = small;
  assert.equal(await small.vm.mayBePaused(), false, "no checkpoint is begun any more");
  let wishes = 0;
  small.vm.whenRunning(() => wishes++);
  // As its guardian ends it.
  await protection.letOut();
  assert.ok(small.putOff - putOff <= 1, `${small.putOff - putOff} checkpoints put off after the end`);
  small.qemu.kill();
  await small.qemu.exited;
  await protection.dispose();
  // Said twice, as when it was under way already.
  await protection.dispose();
  assert.deepEqual([small.endings, wishes, small.warnings], [[how], 0, []], what);
}

test("I5: power off, panic and a reboot that is to end the guest end the VM once, whatever QEMU does then, and its protection with it", async (t) => {
  for (const end of ENDS) await ends(t, end);
});
