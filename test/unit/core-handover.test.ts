// The planned switchover, and what keeps it from losing the VM or running it twice.

import assert from "node:assert/strict";
import { test } from "node:test";
import { playBackup, playPrimary } from "./core-scenario.ts";

/** Protected, checkpoint 0 acknowledged; epoch 1 runs. */
const PROTECTED = `
  protect-asked     → connect                  | connecting
  link-up           → start-capture            | syncing
  first-pass-done   → begin-epochs             | protected
  sent 0            →
  acked 0           → release 0                | protected
  @1 requested      → wake 25
`;
/** Checkpoint 1 is acknowledged and the VM paused there. */
const HANDED_OVER = `${PROTECTED}
  switchover-asked  →
  @25 tick          → capture 1 hold
  @27 captured 1    →                          | protected
  acked 1           → release 1, send-handover 1 | handing-over
`;

test("switchover: the VM is paused at its next checkpoint, and handed over when that is acknowledged and its output released", () => {
  const end = playPrimary(`${HANDED_OVER}
    sent 1            →                          | handing-over
    @900 tick         →
    proceed-asked     →
    switchover-asked  →
    takeover 2        → kill-vm                  | superseded
  `);
  assert.deepEqual(end, { phase: "superseded", generation: 2, planned: true });
});

test("switchover: a checkpoint under way ends as usual, and acks of earlier ones hand nothing over", () => {
  playPrimary(
    `${PROTECTED}
    @25  tick            → capture 1
         switchover-asked →
         switchover-asked →
         captured 1      →
         sent 1          →
         acked 1         → release 1              | protected
         requested       → wake 50
    @50  tick            → capture 2 hold
  `,
  );
  playPrimary(`${PROTECTED}
    @25  tick            → capture 1
         captured 1      →
         sent 1          →
    @30  acked 1         → release 1
         requested       → wake 50
    @50  tick            → capture 2
         captured 2      →
         sent 2          →
         switchover-asked →
         requested       → wake 75
    @75  tick            → capture 3 hold
         captured 3      →
         acked 2         → release 2              | protected
         acked 3         → release 3, send-handover 3 | handing-over
  `);
});

test("switchover: refused while somebody holds the VM, and while protection is about to end", () => {
  const holds = [
    "hold-asked →",
    "hold-asked →\n @25 tick → capture 1 hold",
    "hold-asked →\n @25 tick → capture 1 hold\n captured 1 →",
    "@25 tick → capture 1\n stop-asked →",
  ];
  for (const hold of holds) {
    const before = playPrimary(`${PROTECTED}\n ${hold}`);
    const after = playPrimary(`${PROTECTED}\n ${hold}\n switchover-asked → warn | protected`);
    assert.deepEqual(after, before);
  }
  // A hold that was taken back is no reason.
  playPrimary(`${PROTECTED}
    hold-asked           →
    @25 tick             → capture 1 hold
    proceed-asked        →
    switchover-asked     →
    captured 1           → proceed
    sent 1               →
    acked 1              → release 1
    requested            → wake 50
    @50 tick             → capture 2 hold
  `);
});

test("switchover: nobody can hold the VM, or let it proceed, until its outcome", () => {
  playPrimary(`${PROTECTED}
    switchover-asked     →
    hold-asked           → warn
    @25 tick             → capture 1 hold
    switchover-asked     →
    proceed-asked        →
    hold-asked           → warn
    captured 1           →
    proceed-asked        →
    acked 1              → release 1, send-handover 1 | handing-over
    hold-asked           → warn
    stop-asked           → warn                       | handing-over
  `);
});

test("I5, switchover: a stop, or a part that fails, before the handover ends the protection as ever, and the VM runs", () => {
  for (const why of ["stop-asked", "output-failed", "disk-failed"]) {
    const asked = `${PROTECTED}\n switchover-asked →\n`;
    playPrimary(`${asked} ${why} → send-goodbye | leaving`);
    playPrimary(
      `${asked} @25 tick → capture 1 hold\n ${why} →\n captured 1 → proceed, send-goodbye | leaving`,
    );
    playPrimary(
      `${asked} @25 tick → capture 1 hold\n captured 1 →\n ${why} → proceed, send-goodbye | leaving`,
    );
  }
  playPrimary(`${PROTECTED}
    switchover-asked     →
    @25 tick             → capture 1 hold
    capture-failed       → send-goodbye | leaving
  `);
});

test("I4, switchover: the backup is lost before the handover: as in any other epoch, the VM does not stay paused", () => {
  playPrimary(`${PROTECTED}
    switchover-asked     →
    @25 tick             → capture 1 hold
    captured 1           →
    link-lost            → warn, proceed, close-link, ask-arbiter 1 | arbitrating
    verdict granted 2    → release-all, end-capture, warn           | ending
  `);
});

test("I3, switchover: the backup is lost after the handover: the VM stays paused until the arbiter gives it back", () => {
  const lost = `${HANDED_OVER}
    link-lost            → warn, close-link, ask-arbiter 1          | arbitrating
    proceed-asked        →
    stop-asked           →
    disk-failed          →
    @9000 tick           →                                          | arbitrating
  `;
  playPrimary(`${lost} verdict granted 2 → proceed, release-all, end-capture, warn | ending`);
  const end = playPrimary(`${lost} verdict denied 2 → kill-vm | superseded`);
  assert.deepEqual(end, { phase: "superseded", generation: 2, planned: true });
  // No late word from the capture lets it run before.
  playPrimary(`${lost} captured 1 → | arbitrating`);
  // Nor does one keep it paused after.
  playPrimary(
    `${lost} capture-put-off →\n verdict granted 2 → proceed, release-all, end-capture, warn | ending`,
  );
  // Nobody hears a `proceed` when capture has failed, whenever it did.
  playPrimary(`${lost} capture-failed →\n verdict granted 2 → release-all, end-capture, warn | ending`);
  playPrimary(`${HANDED_OVER}
    capture-failed       →                                          | handing-over
    link-lost            → warn, close-link, ask-arbiter 1          | arbitrating
    verdict granted 2    → release-all, end-capture, warn           | ending
  `);
});

test("I5, switchover: a backup that refuses and stays the backup: the VM proceeds, protected, and may be handed over again", () => {
  const refused = `${HANDED_OVER}
    sent 1                →
    @300 handover-refused → proceed, warn                           | protected
    @301 requested        → wake 325
  `;
  playPrimary(`${refused} @325 tick → capture 2`);
  playPrimary(`${refused}
    switchover-asked      →
    @325 tick             → capture 2 hold
    captured 2            →
    acked 2               → release 2, send-handover 2              | handing-over
  `);
});

test("I5, switchover: a backup that refuses and has stood down: the VM proceeds, alone, with the generation that holds now", () => {
  const end = playPrimary(`${HANDED_OVER}
    handover-refused stood-down 2 → proceed, release-all, end-capture, close-link, warn | ending
    link-lost             →                                         | ending
    capture-ended         →                                         | unprotected
  `);
  assert.deepEqual(end, { phase: "unprotected", generation: 2 });
});

test("I5, switchover: a backup that is unable to go on has let go of the VM: it proceeds, if capture is there to hear it", () => {
  const ends = "release-all, end-capture, close-link, warn | ending";
  playPrimary(`${HANDED_OVER}\n unable → proceed, ${ends}`);
  playPrimary(`${HANDED_OVER}\n capture-failed → | handing-over\n unable → ${ends}`);
});

test("I5, switchover: parts that fail while the VM is handed over end the protection if the backup refuses", () => {
  for (const part of ["output-failed", "disk-failed"])
    playPrimary(`${HANDED_OVER}
      ${part}             →                                         | handing-over
      handover-refused    → proceed, send-goodbye                   | leaving
      # If the backup is lost now, the arbiter is asked with the generation that was protected (I3).
      link-lost           → warn, close-link, ask-arbiter 1         | arbitrating
    `);
  playPrimary(`${HANDED_OVER}
    capture-failed        →                                         | handing-over
    handover-refused      → send-goodbye                            | leaving
    goodbye-ok            → release-all, end-capture, close-link    | ending
  `);
  playPrimary(`${HANDED_OVER}
    capture-failed        →                                         | handing-over
    handover-refused stood-down 2 → release-all, end-capture, close-link, warn | ending
  `);
});

test("I1, switchover: an ack after the last one stops everything", () => {
  for (const ack of [1, 2])
    playPrimary(
      `${HANDED_OVER}\n acked ${ack} → !! I1 would be broken: ack ${ack} after ack 1, the last one`,
    );
});

test("I2: a disk that fails in a capture: it ends, is never acknowledged, and the protection ends without waiting for that", () => {
  playPrimary(`${PROTECTED}
    @25 tick             → capture 1
    disk-failed          →                                      | protected
    captured 1           → send-goodbye                         | leaving
    goodbye-ok           → release-all, end-capture, close-link | ending
  `);
  // The guardian may hear of it only after the capture.
  playPrimary(`${PROTECTED}
    @25 tick             → capture 1
    captured 1           →
    requested            → wake 50
    @200 tick            →
    disk-failed          → send-goodbye                         | leaving
    disk-failed          →                                      | leaving
    goodbye-ok           → release-all, end-capture, close-link | ending
    disk-failed          →                                      | ending
  `);
  playPrimary(`
    protect-asked        → connect
    link-up              → start-capture
    disk-failed          → close-link, end-capture, warn        | ending
  `);
});

/** Checkpoints 0 and 1 acknowledged, 0 committed. */
const ARMED = `
  session-opened 1     →                    | filling
  checkpoint-whole 0   → ack 0, commit 0    | armed
  committed 0          →
  checkpoint-whole 1   → ack 1, commit 1    | armed
`;
const ASKED = `${ARMED}
  handover-asked 1     → drop-incomplete, ask-arbiter 1   | arbitrating
`;

test("switchover: the backup asks the arbiter, runs the VM, and only then says so", () => {
  const end = playBackup(`${ASKED}
    verdict granted 2    →                                | recovering
    committed 1          → run-standby 1                  | recovering
    handover-expired     →
    standby-runs         → takeover 1 2, warn             | running
    handover-asked 1     →                                | running
  `);
  assert.deepEqual(end, { phase: "running", generation: 2 });
  playBackup(`${ASKED}
    committed 1          →                                | arbitrating
    verdict granted 2    → run-standby 1                  | recovering
  `);
});

test("switchover: a checkpoint that is not the last one here is not taken over, and this host stays the backup", () => {
  for (const epoch of [0, 2]) {
    const end = playBackup(`${ARMED}\n handover-asked ${epoch} → refuse-handover, warn | armed`);
    assert.deepEqual(end, { phase: "armed", generation: 1, acked: 1, committed: 0 });
  }
  playBackup("session-opened 1 →\n handover-asked 0 → refuse-handover, warn | filling");
});

test("I3, I5, switchover: whatever keeps the VM from running here, the primary hears that it never will", () => {
  const granted = `${ASKED}\n committed 1 →\n verdict granted 2 → run-standby 1`;
  for (const [before, why] of [
    [granted, "standby-failed"],
    [granted, "commit-failed"],
    [`${ASKED}\n verdict granted 2 →`, "commit-failed"],
    [ASKED, "commit-failed"],
    [ASKED, "handover-expired"],
  ] as const)
    playBackup(`${before}
      ${why}             → refuse-handover stood-down, error   | stood-down
      verdict granted 2  →                                     | stood-down
      committed 1        →                                     | stood-down
      standby-runs       →                                     | stood-down
      primary-lost       →                                     | stood-down
    `);
  const denied = playBackup(`${ASKED}\n verdict denied 3 → refuse-handover stood-down, warn | stood-down`);
  assert.equal(denied.generation, 3);
});

test("I4, switchover: once the primary is lost, this is a failover: it does not expire, and TAKEOVER is said at once", () => {
  const lost = `${ASKED}\n primary-lost → warn | arbitrating`;
  playBackup(`${lost}
    handover-expired     →                                | arbitrating
    committed 1          →
    verdict granted 2    → takeover 1 2, run-standby 1    | recovering
  `);
  playBackup(`${lost}\n verdict denied 2 → close-link, warn | stood-down`);
});

test("images that cannot take what comes: the primary is told, and this host is no backup until the next first pass", () => {
  playBackup(`${ARMED}
    commit-failed        → unable, forget, error          | waiting
    primary-lost         →
    commit-failed        →                                | waiting
    session-opened 1     →                                | filling
    commit-failed        → unable, forget, error          | waiting
  `);
});

test("I2, I4: images that do not take what is left of a lost primary's VM are tried again, and nothing half is ever run", () => {
  const lost = `${ARMED}\n primary-lost → warn, drop-incomplete, ask-arbiter 1`;
  for (const before of [lost, `${ASKED}\n primary-lost → warn`])
    playBackup(`${before}
      commit-failed        → commit-again                     | arbitrating
      verdict granted 2    → takeover 1 2                     | recovering
      commit-failed        → commit-again                     | recovering
      commit-failed        → commit-again                     | recovering
      committed 1          → run-standby 1                    | recovering
      standby-runs         → warn                             | running
    `);
  playBackup(`${lost}
    commit-failed        → commit-again                       | arbitrating
    verdict denied 2     → close-link, warn                   | stood-down
    commit-failed        →                                    | stood-down
  `);
});

test("I4, switchover: a primary that is lost when the VM is ours already leaves the only copy here", () => {
  const ours = `${ASKED}\n verdict granted 2 →\n primary-lost → takeover 1 2, warn | recovering`;
  playBackup(`${ours}
    commit-failed        → commit-again                       | recovering
    primary-lost         →                                    | recovering
    committed 1          → run-standby 1                      | recovering
    standby-runs         → warn                               | running
  `);
  playBackup(`${ours}\n standby-failed → close-link, error | stood-down`);
});
