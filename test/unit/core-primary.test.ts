import assert from "node:assert/strict";
import { test } from "node:test";
import type { PrimaryState } from "../../src/core/primary-protocol.ts";
import { IllegalTransition, InvariantBroken } from "../../src/core/transition.ts";
import { playPrimary, SETTINGS } from "./core-scenario.ts";

/** Protected, epoch 1 running, checkpoint 0 acknowledged, at 0 ms. */
const PROTECTED = `
  protect-asked     → connect                  | connecting
  link-up           → start-capture            | syncing
  first-pass-done   → begin-epochs             | protected
  sent 0            →
  acked 0           → release 0                | protected
`;
/** The same with checkpoint 1 captured and not acknowledged; epoch 2 runs. At 25 ms. */
const ONE_IN_FLIGHT = `${PROTECTED}
  @1   requested    → wake 25
  @25  tick         → capture 1
       captured 1   →
       sent 1       →
`;
/** The way to the backup is known to be short, so two checkpoints may be on it; epoch 2 runs. At 30 ms. */
const WAY_KNOWN = `${ONE_IN_FLIGHT}
  @30  acked 1      → release 1
`;

test("I1: an epoch's output is released when its checkpoint is acknowledged, epoch by epoch, though epochs overlap", () => {
  playPrimary(`${WAY_KNOWN}
    @31  requested   → wake 50
    @50  tick        → capture 2
    @51  captured 2  →
         sent 2      →
    @52  requested   → wake 75
    @75  tick        → capture 3
    @76  captured 3  →
    @77  acked 2     → release 2
    @78  acked 3     → release 3
  `);
});

test("I1: an ack out of order, twice, or of a checkpoint that was not captured stops everything", () => {
  for (const epoch of [0, 2, 3])
    playPrimary(
      `${ONE_IN_FLIGHT}\n acked ${epoch} → !! I1 would be broken: ack ${epoch} while 0 was the last one acknowledged and epoch 2 runs`,
    );
  playPrimary(`${PROTECTED}\n acked 1 → !! I1 would be broken`);
});

test("I2: a checkpoint that is captured unasked, or with the wrong number, stops everything", () => {
  playPrimary(`${PROTECTED}
    captured 1    → !! I2 would be broken: checkpoint 1 was captured while epoch 1 ran`);
  playPrimary(`${PROTECTED}
    requested     → wake 25
    @25 tick      → capture 1
    captured 2    → !! I2 would be broken`);
});

test("part 6, backup lost: output stays held until the arbiter speaks; granted: released, solo, and ready to start again", () => {
  playPrimary(`${ONE_IN_FLIGHT}
    link-lost            → warn, close-link, ask-arbiter 1   | arbitrating
    acked 1              →                                   | arbitrating
    tick                 →
    requested            →
    link-lost            →
    verdict granted 2    → release-all, end-capture, warn    | ending
    capture-ended        →                                   | unprotected
    protect-asked        → connect                           | connecting
  `);
});

test("I4: a hypervisor that hangs is killed while the backup holds a checkpoint, also in the midst of the next one", () => {
  playPrimary(`${PROTECTED} hypervisor-hung → kill-vm | protected`);
  playPrimary(`${ONE_IN_FLIGHT}
    @26  requested        → wake 50
    @50  acked 1          → release 1, capture 2
         hypervisor-hung  → kill-vm  | protected
    # What is acknowledged may go: the backup knows of it.
         hypervisor-hung  → kill-vm  | protected
  `);
});

test("I5: a hypervisor that hangs is left alone where nobody else has the VM, or might not", () => {
  playPrimary(`
    hypervisor-hung    →                        | unprotected
    protect-asked      → connect
    hypervisor-hung    →                        | connecting
    link-up            → start-capture
    hypervisor-hung    →                        | syncing
    first-pass-done    → begin-epochs
    hypervisor-hung    →                        | protected
    acked 0            → release 0
    stop-asked         → send-goodbye
    hypervisor-hung    →                        | leaving
    link-lost          → warn, close-link, ask-arbiter 1
    hypervisor-hung    →                        | arbitrating
    verdict granted 2  → release-all, end-capture, warn
    hypervisor-hung    →                        | ending
  `);
});

test("part 6, backup lost and the arbiter denies: the VM is killed, once, and nothing is released", () => {
  playPrimary(`${ONE_IN_FLIGHT}
    link-lost            → warn, close-link, ask-arbiter 1   | arbitrating
    verdict denied 2     → kill-vm                           | superseded
    takeover 2           →                                   | superseded
    goodbye-ok           →                                   | superseded
    protect-asked        →                                   | superseded
  `);
});

test("part 6, link and arbiter out of reach: nothing moves and nothing is released, however long it lasts", () => {
  playPrimary(`${ONE_IN_FLIGHT}
    link-lost       → warn, close-link, ask-arbiter 1   | arbitrating
    @60000 tick     →
    stop-asked      →
    goodbye-ok      →
    capture-failed  →                                   | arbitrating
  `);
});

test("part 6, link lost during a capture: the capture may end, and is not released", () => {
  playPrimary(`${PROTECTED}
    @1   requested       → wake 25
    @25  tick            → capture 1
    link-lost            → warn, close-link, ask-arbiter 1   | arbitrating
    captured 1           →                                   | arbitrating
    verdict granted 2    → release-all, end-capture, warn    | ending
  `);
});

test("I3: a takeover kills the VM in every phase, whatever else the state holds", () => {
  const phases: [string, string][] = [
    ["unprotected", ""],
    ["connecting", "protect-asked → connect"],
    ["syncing", "protect-asked → connect\n link-up → start-capture"],
    ["protected", PROTECTED],
    ["protected", ONE_IN_FLIGHT],
    ["leaving", `${PROTECTED}\n stop-asked → send-goodbye`],
    ["arbitrating", `${PROTECTED}\n link-lost → warn, close-link, ask-arbiter 1`],
    [
      "ending",
      `${PROTECTED}\n stop-asked → send-goodbye\n goodbye-ok → release-all, end-capture, close-link`,
    ],
  ];
  for (const [phase, before] of phases) {
    assert.equal(playPrimary(before).phase, phase);
    const end = playPrimary(`${before}\n takeover 2 → kill-vm | superseded`);
    assert.deepEqual(end, { phase: "superseded", generation: 2, planned: false });
  }
});

test("I5: stop waits for the backup to stand down before output is free, and protection starts again", () => {
  playPrimary(`${ONE_IN_FLIGHT}
    stop-asked      → send-goodbye                         | leaving
    acked 1         → release 1                            | leaving
    requested       →
    tick            →
    stop-asked      →                                      | leaving
    goodbye-ok      → release-all, end-capture, close-link | ending
    link-lost       →                                      | ending
    stop-asked      →
    protect-asked   → !! has not ended yet
    capture-ended   →                                      | unprotected
    stop-asked      →                                      | unprotected
    protect-asked   → connect                              | connecting
  `);
});

test("I1: while leaving, an ack out of order stops everything", () => {
  playPrimary(`${ONE_IN_FLIGHT}
    stop-asked      → send-goodbye   | leaving
    acked 2         → !! I1 would be broken: ack 2 after ack 0
  `);
});

test("I5: stop during a capture lets the capture end first: QEMU is not left inside the pause", () => {
  playPrimary(`${PROTECTED}
    @1   requested   → wake 25
    @25  tick        → capture 1
    stop-asked       →                 | protected
    captured 1       → send-goodbye    | leaving
  `);
});

test("I3: the backup is lost while leaving: it may have armed again, so the arbiter is asked before output is free", () => {
  const lost = `${PROTECTED}
    stop-asked          → send-goodbye                        | leaving
    link-lost           → warn, close-link, ask-arbiter 1     | arbitrating
  `;
  playPrimary(`${lost} verdict granted 2 → release-all, end-capture, warn | ending`);
  // It was not handed over: this host is no backup for what runs there.
  const end = playPrimary(`${lost} verdict denied 2 → kill-vm | superseded`);
  assert.deepEqual(end, { phase: "superseded", generation: 2, planned: false });
});

test("I5: stop before there is a whole checkpoint asks nobody: connecting", () => {
  playPrimary(`
    protect-asked   → connect       | connecting
    tick            →
    stop-asked      → close-link    | unprotected
  `);
});

test("I5: a first pass that breaks off, for whatever reason, leaves the VM running unprotected", () => {
  const syncing = "protect-asked → connect\n link-up → start-capture\n sent 0 →\n tick →\n";
  playPrimary(`${syncing} stop-asked     → close-link, end-capture        | ending
                          capture-ended  →                                | unprotected`);
  playPrimary(`${syncing} link-lost      → close-link, end-capture, warn  | ending
                          capture-failed →                                | ending
                          capture-ended  →                                | unprotected`);
  playPrimary(`${syncing} output-failed  → close-link, end-capture, warn  | ending
                          capture-ended  →                                | unprotected`);
  playPrimary(`${syncing} capture-failed → close-link, end-capture, warn  | ending
                          link-lost      →                                | ending
                          capture-ended  →                                | unprotected`);
});

test("I5: a backup that cannot be reached leaves the VM running unprotected", () => {
  playPrimary(`
    protect-asked   → connect    | connecting
    link-lost       → warn       | unprotected
    link-lost       →            | unprotected
  `);
});

test("I5: a backup that is unable to go on has let go of the VM: nobody is asked, and output is free", () => {
  const ends = "release-all, end-capture, close-link, warn | ending";
  playPrimary(`${PROTECTED}
    unable          → ${ends}
    link-lost       →                                      | ending
    capture-ended   →                                      | unprotected
  `);
  playPrimary(`${PROTECTED}
    @1   requested  → wake 25
    @25  tick       → capture 1
    unable          → ${ends}
    captured 1      →                                      | ending
  `);
  playPrimary(`${PROTECTED}
    hold-asked 0    →
    @1   requested  → wake 25
    @25  tick       → capture 1 hold
    captured 1      →
    unable          → proceed, ${ends}
  `);
  playPrimary(`${ONE_IN_FLIGHT}
    stop-asked      → send-goodbye                         | leaving
    unable          → ${ends}
  `);
  playPrimary(`${PROTECTED}
    link-lost       → warn, close-link, ask-arbiter 1      | arbitrating
    unable          →                                      | arbitrating
  `);
  playPrimary(
    "protect-asked → connect\n link-up → start-capture\n unable → close-link, end-capture, warn | ending",
  );
});

test("I5: when capture fails the backup is told goodbye, and only its answer frees the output", () => {
  playPrimary(`${ONE_IN_FLIGHT}
    capture-failed  → send-goodbye                         | leaving
    acked 1         → release 1                            | leaving
    goodbye-ok      → release-all, end-capture, close-link | ending
  `);
});

test("I5: a capture that fails half-way ends the protection at the last whole checkpoint", () => {
  playPrimary(`${PROTECTED}
    @1   requested    → wake 25
    @25  tick         → capture 1
    capture-failed    → send-goodbye                         | leaving
    goodbye-ok        → release-all, end-capture, close-link | ending
  `);
});

test("I5: output hold that fails during a capture lets the capture end first; nothing is sent into its middle", () => {
  playPrimary(`${PROTECTED}
    @1   requested    → wake 25
    @25  tick         → capture 1
    output-failed     →                                      | protected
    captured 1        → send-goodbye                         | leaving
    output-failed     →                                      | leaving
    goodbye-ok        → release-all, end-capture, close-link | ending
    output-failed     →                                      | ending
  `);
});

test("I5: output hold that fails between captures, or while the VM is held, ends the protection at once", () => {
  playPrimary(`${PROTECTED} output-failed → send-goodbye | leaving`);
  playPrimary(`${PROTECTED}
    hold-asked        →
    @1   requested    → wake 25
    @25  tick         → capture 1 hold
    captured 1        →
    output-failed     → proceed, send-goodbye                | leaving
  `);
});

test("I5: capture that fails while the VM is held is not told to proceed: nobody is there to hear it", () => {
  playPrimary(`${PROTECTED}
    hold-asked        →
    @1   requested    → wake 25
    @25  tick         → capture 1 hold
    captured 1        →
    capture-failed    → send-goodbye                         | leaving
    goodbye-ok        → release-all, end-capture, close-link | ending
  `);
});

test("hold: the next checkpoint keeps the VM paused, acks go on, and proceed lets it run", () => {
  const held = playPrimary(`${PROTECTED}
    hold-asked         →
    @1   requested     → wake 25
    @25  tick          → capture 1 hold
    captured 1         →
    sent 1             →
    acked 1            → release 1
    @900 tick          →
  `);
  assert.equal((held as PrimaryState & { phase: "protected" }).capture, "held");
  playPrimary("proceed-asked → proceed\n @901 requested → capture 2", SETTINGS, held);
});

test("hold: asked for a later checkpoint, those before it go on as usual", () => {
  playPrimary(`${PROTECTED}
    hold-asked 2       →
    @1   requested     → wake 25
    @25  tick          → capture 1
    captured 1         →
    acked 1            → release 1
    sent 1             →
    requested          → wake 50
    @50  tick          → capture 2 hold
    captured 2         →
    sent 2             →
    proceed-asked      → proceed
    @51  requested     → wake 75
    @75  tick          → capture 3
  `);
});

test("hold: taken back before the checkpoint, the VM is not paused", () => {
  playPrimary(`${PROTECTED}
    hold-asked         →
    proceed-asked      →
    @1   requested     → wake 25
    @25  tick          → capture 1
  `);
});

test("I5, hold: taken back during its checkpoint, the VM runs on when that is captured", () => {
  const takenBack = `${PROTECTED}
    hold-asked         →
    @1   requested     → wake 25
    @25  tick          → capture 1 hold
    proceed-asked      →
  `;
  playPrimary(`${takenBack}
    captured 1         → proceed
    sent 1             →
    acked 1            → release 1
    @26  requested     → wake 50
    @50  tick          → capture 2
  `);
  playPrimary(`${takenBack} proceed-asked →\n captured 1 → proceed`);
  playPrimary(`${takenBack} hold-asked 2  →\n captured 1 → proceed
    sent 1             →
    acked 1            → release 1
    @26  requested     → wake 50
    @50  tick          → capture 2 hold
  `);
  playPrimary(`${takenBack} stop-asked    →\n captured 1 → proceed, send-goodbye | leaving`);
});

test("I5, hold: proceed ends every hold that was asked for before it", () => {
  playPrimary(`${PROTECTED}
    hold-asked         →
    @1   requested     → wake 25
    @25  tick          → capture 1 hold
    hold-asked         →
    captured 1         →
    hold-asked         →
    proceed-asked      → proceed
    sent 1             →
    acked 1            → release 1
    @26  requested     → wake 50
    @50  tick          → capture 2
  `);
});

test("I5, hold: when the backup is lost during its checkpoint, the VM does not stay paused", () => {
  for (const takenBack of ["", "proceed-asked →"])
    playPrimary(`${PROTECTED}
      hold-asked         →
      @1   requested     → wake 25
      @25  tick          → capture 1 hold
      ${takenBack}
      link-lost          → warn, close-link, ask-arbiter 1   | arbitrating
      captured 1         → proceed                           | arbitrating
      verdict granted 2  → release-all, end-capture, warn    | ending
    `);
});

test("I5, hold: proceed is said once, to a capture that waits for it, and to no other", () => {
  const lost = "link-lost → warn, close-link, ask-arbiter 1 | arbitrating";
  const toHold = `${PROTECTED}
    hold-asked         →
    @1   requested     → wake 25
    @25  tick          → capture 1 hold
    ${lost}
  `;
  playPrimary(`${toHold} captured 1 → proceed\n captured 1 →`);
  playPrimary(`${toHold} capture-failed →\n captured 1 →`);
  playPrimary(`${PROTECTED}\n stop-asked → send-goodbye\n ${lost}\n captured 1 →`);
});

test("I5: a held VM runs on when protection stops and when the backup is lost", () => {
  const held = `${PROTECTED}
    hold-asked         →
    @1   requested     → wake 25
    @25  tick          → capture 1 hold
  `;
  playPrimary(`${held} captured 1 →\n stop-asked → proceed, send-goodbye                          | leaving`);
  playPrimary(
    `${held} captured 1 →\n link-lost  → warn, proceed, close-link, ask-arbiter 1       | arbitrating`,
  );
  playPrimary(`${held} stop-asked →\n captured 1 → proceed, send-goodbye                          | leaving`);
});

test("I6, slow link: with maxInFlight checkpoints unacknowledged the epoch goes on, and an ack ends it at once", () => {
  const settings = { ...SETTINGS, maxInFlight: 2 };
  playPrimary(
    `${WAY_KNOWN}
          requested   → wake 50
    @50   tick        → capture 2
          captured 2  →
          sent 2      →
          requested   → wake 75
    @75   tick        → capture 3
          captured 3  →
          sent 3      →
          requested   → wake 100
    @100  tick        →
    @400  tick        →
    @410  acked 2     → release 2, capture 4
  `,
    settings,
  );
});

test("I6, slow link: checkpoint 0 counts among those unacknowledged", () => {
  playPrimary(
    `
    protect-asked     → connect
    link-up           → start-capture
    first-pass-done   → begin-epochs
    sent 0            →
    @1    requested   → wake 25
    @900  tick        →
    @901  acked 0     → release 0, capture 1
  `,
    { ...SETTINGS, maxInFlight: 1 },
  );
});

test("I6, slow link: a checkpoint waits, with the VM running, until the one before has left; then the grid starts anew", () => {
  playPrimary(`${WAY_KNOWN}
    @31   requested     → wake 50
    @50   tick          → capture 2
          captured 2    →
    @51   requested     → wake 75
    @75   tick          →
    @300  tick          →
    @310  sent 2        → capture 3
          captured 3    →
          acked 2       → release 2
          sent 3        →
    @311  requested     → wake 322.5
  `);
});

test("I6: as long as the way to the backup is not known, one checkpoint is on it, and its ack ends the epoch", () => {
  playPrimary(`${ONE_IN_FLIGHT}
    @26   requested     → wake 50
    @50   tick          →
    @300  acked 1       → release 1, capture 2
  `);
});

test("I6, slow link: the first epoch is as long as the first pass takes to arrive", () => {
  playPrimary(`
    protect-asked       → connect
    link-up             → start-capture
    first-pass-done     → begin-epochs
    @1    requested     → wake 25
    @400  tick          →
    @410  sent 0        →
    @412  acked 0       → release 0, capture 1
  `);
});

test("QEMU's timer follows the wall clock: when it is silent too long, it is reminded, and not again at once", () => {
  playPrimary(`${PROTECTED}
    @500   tick        →
    @501   tick        → remind-hypervisor
    @502   tick        →
    @1002  tick        → remind-hypervisor
    @1003  requested   → capture 1
    @2000  tick        →
  `);
});

test("events that the protocol rules out are our bug, named with phase and event", () => {
  for (const [before, event, detail = ""] of [
    ["", "link-up"],
    ["", "captured 1"],
    ["", "verdict granted 2"],
    ["protect-asked → connect", "acked 0"],
    ["protect-asked → connect", "protect-asked"],
    ["protect-asked → connect\n link-up → start-capture", "acked 0"],
    [PROTECTED, "goodbye-ok"],
    [PROTECTED, "verdict granted 2"],
    [PROTECTED, "protect-asked"],
    [`${PROTECTED}\n requested → wake 25`, "requested", ": capture is requested"],
    [`${PROTECTED}\n stop-asked → send-goodbye`, "verdict granted 2"],
  ] as const) {
    const { phase } = playPrimary(before);
    const name = event.split(" ")[0];
    playPrimary(`${before}\n ${event} → !! primary in state "${phase}" cannot take "${name}"${detail}`);
  }
});

test("the two kinds of errors can be told apart: a broken invariant, and an event out of place", () => {
  const broken = () => playPrimary(`${PROTECTED}\n acked 7 →`);
  assert.throws(broken, InvariantBroken);
  assert.throws(broken, { name: "InvariantBroken" });
  const illegal = () => playPrimary("link-up →");
  assert.throws(illegal, IllegalTransition);
  assert.throws(illegal, {
    name: "IllegalTransition",
    message: 'primary in state "unprotected" cannot take "link-up"',
  });
});
