/** What is said when no checkpoint comes about: once for each reason, and once when they come again. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { paceSent, startPacing } from "../../src/core/pacer.ts";
import type { CaptureState, PrimaryState, ProtectedState } from "../../src/core/primary-protocol.ts";
import { CheckpointWatch } from "../../src/guardian/watch/checkpoint-watch.ts";

const settings = { intervalMs: 25, maxInFlight: 4, maxInFlightBytes: 2 ** 20 };

function protectedState(capture: CaptureState, acked: number, sent = acked): ProtectedState {
  return {
    phase: "protected",
    generation: 1,
    running: acked + 2,
    acked,
    capture,
    capturedMs: 0,
    pacer: paceSent(startPacing(0, settings), sent),
    holdAt: undefined,
    switchover: false,
    leaveBecause: undefined,
    releaseFrom: 0,
  };
}

function watch(intervalMs = settings.intervalMs) {
  const alarms: [boolean, string][] = [];
  const watching = new CheckpointWatch({
    settings: { ...settings, intervalMs },
    log: { info: () => {}, warn: () => {}, error: () => {} } as never,
    control: {
      publish: (event) => {
        const { about, raised, text } = event as unknown as { about: string; raised: boolean; text: string };
        assert.equal(about, "checkpoints");
        alarms.push([raised, text]);
      },
    },
  });
  return { alarms, watching };
}

test("checkpoints that come, a VM that is held, and one that is not protected raise no alarm", () => {
  const { alarms, watching } = watch();
  for (let acked = 0; acked < 10; acked++) watching.look(protectedState("requested", acked), acked * 1_900);
  for (let now = 20_000; now < 90_000; now += 500) watching.look(protectedState("held", 9), now);
  const unprotected: PrimaryState = { phase: "unprotected", generation: 1 };
  for (let now = 90_000; now < 99_000; now += 500) watching.look(unprotected, now);
  watching.look(protectedState("requested", 9), 99_000);
  watching.look(protectedState("requested", 9), 100_900);
  assert.equal(alarms.length, 0);
});

test("each reason is told once, with how long it has lasted; so is the end", () => {
  const { alarms, watching } = watch();
  const at = (seconds: number, state: PrimaryState) => watching.look(state, 50_000 + seconds * 1_000);
  at(0, protectedState("requested", 7));
  at(1.9, protectedState("requested", 7));
  assert.equal(alarms.length, 0);
  for (const later of [2.5, 3, 3.5]) at(later, protectedState("requested", 7));
  at(4, protectedState("requested", 7, 8));
  at(5, protectedState("idle", 7));
  at(6, protectedState("capturing", 7));
  at(7, protectedState("requested", 8));
  at(8, protectedState("requested", 9));
  const held = "and the VM's output is held:";
  assert.deepEqual(alarms.slice(0, 2), [
    [
      true,
      `no checkpoint was acknowledged for 2.5 s, ${held} checkpoint 8 has not left this host: the links take nothing, or too little`,
    ],
    [
      true,
      `no checkpoint was acknowledged for 4.0 s, ${held} the backup has not acknowledged checkpoint 8: it is on its way, or waits there for the disks of earlier ones`,
    ],
  ]);
  assert.match(alarms[2]![1], /5\.0 s, .*: QEMU has not asked for the next one/);
  assert.match(alarms[3]![1], /6\.0 s, .*: QEMU is taking checkpoint 9/);
  assert.deepEqual(alarms.slice(4), [[false, "checkpoints are acknowledged again, after 7.0 s"]]);
});

test("protection that ends takes the alarm along, and long intervals have more time", () => {
  const { alarms, watching } = watch(1_000);
  watching.look(protectedState("requested", 1), 0);
  watching.look(protectedState("requested", 1), 3_900);
  assert.equal(alarms.length, 0);
  watching.look(protectedState("requested", 1), 4_100);
  watching.look({ phase: "unprotected", generation: 1 }, 4_200);
  watching.look({ phase: "unprotected", generation: 1 }, 4_300);
  assert.deepEqual(
    alarms.map(([raised]) => raised),
    [true, false],
  );
  assert.equal(alarms[1]![1], "the VM is unprotected");
});
