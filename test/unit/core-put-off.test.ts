// A checkpoint that was ordered and is not begun, for the VM does not run at this instant: it is as if it had
// not been ordered.

import { test } from "node:test";
import { playPrimary } from "./core-scenario.ts";

/** Protected, epoch 1 running, checkpoint 0 acknowledged. */
const PROTECTED = `
  protect-asked     → connect                  | connecting
  link-up           → start-capture            | syncing
  first-pass-done   → begin-epochs             | protected
  sent 0            →
  acked 0           → release 0                | protected
`;
/** Somebody wants to look at the VM, and checkpoint 1 is ordered. At 25 ms. */
const TO_HOLD = `${PROTECTED}
  hold-asked        →
  @1   requested    → wake 25
  @25  tick         → capture 1 hold
`;

test("a checkpoint that is put off is taken when QEMU asks again", () => {
  playPrimary(`${PROTECTED}
    @1   requested        → wake 25
    @25  tick             → capture 1
         capture-put-off  →                           | protected
    @60  requested        → capture 1
         captured 1       →
         sent 1           →
         acked 1          → release 1
    @61  requested        → wake 75
    @75  tick             → capture 2
  `);
});

test("hold: a checkpoint that is put off leaves the hold to the next one, and to no other", () => {
  playPrimary(`${TO_HOLD}
         capture-put-off  →
    @60  requested        → capture 1 hold
         captured 1       →
         proceed-asked    → proceed
         sent 1           →
         acked 1          → release 1
    @70  requested        → wake 75
    @75  tick             → capture 2
  `);
});

test("hold: who takes it back, before the checkpoint is put off or after, keeps no VM paused", () => {
  for (const [before, after] of [
    ["proceed-asked →", ""],
    ["", "proceed-asked →"],
  ])
    playPrimary(`${TO_HOLD}
           ${before}
           capture-put-off  →
           ${after}
      @60  requested        → capture 1
    `);
});

test("hold: a VM that is held, or is to be, is not handed over, though its checkpoint is put off", () => {
  playPrimary(`${TO_HOLD}
         capture-put-off  →
         switchover-asked → warn                      | protected
    @60  requested        → capture 1 hold
         captured 1       →
         sent 1           →
         acked 1          → release 1                 | protected
  `);
});

test("switchover: a checkpoint that is put off leaves it to the next one", () => {
  playPrimary(`${PROTECTED}
         switchover-asked →
    @1   requested        → wake 25
    @25  tick             → capture 1 hold
         capture-put-off  →                           | protected
         proceed-asked    →
         hold-asked       → warn
    @60  requested        → capture 1 hold
         captured 1       →
         acked 1          → release 1, send-handover 1 | handing-over
  `);
});

test("I5: a stop, or a part that fails, waits no longer for a checkpoint that is put off, and nobody is told to proceed", () => {
  for (const why of ["stop-asked", "output-failed", "disk-failed"])
    for (const [asked, order] of [
      ["", "capture 1"],
      ["hold-asked →", "capture 1 hold"],
    ])
      playPrimary(`${PROTECTED}
        ${asked}
        @1   requested        → wake 25
        @25  tick             → ${order}
             ${why}           →                           | protected
             capture-put-off  → send-goodbye              | leaving
      `);
});

test("I5: with the backup lost meanwhile, nothing is left that would wait for a proceed", () => {
  playPrimary(`${TO_HOLD}
    link-lost             → warn, close-link, ask-arbiter 1   | arbitrating
    capture-put-off       →                                   | arbitrating
    captured 1            →                                   | arbitrating
    verdict granted 2     → release-all, end-capture, warn    | ending
  `);
});

test("a checkpoint that is put off unasked is our bug, and says where capture stands", () => {
  for (const [before, capture] of [
    [PROTECTED, "idle"],
    [`${TO_HOLD}\n captured 1 →`, "held"],
  ])
    playPrimary(
      `${before}\n capture-put-off → !! primary in state "protected" cannot take "capture-put-off": capture is ${capture}`,
    );
});
