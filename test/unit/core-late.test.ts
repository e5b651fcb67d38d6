// What comes late: acks that lay in a socket while this host was not there, and the word of a host that does
// not know that its time is over.

import assert from "node:assert/strict";
import { test } from "node:test";
import { playBackup, playPrimary } from "./core-scenario.ts";

/** Checkpoint 1 is captured and not acknowledged; epoch 2 runs. At 25 ms. */
const ONE_IN_FLIGHT = `
  protect-asked     → connect                  | connecting
  link-up           → start-capture            | syncing
  first-pass-done   → begin-epochs             | protected
  sent 0            →
  acked 0           → release 0                | protected
  @1   requested    → wake 25
  @25  tick         → capture 1
       captured 1   →
       sent 1       →
`;
const LATE = `${ONE_IN_FLIGHT}
  @900 heard-late   →                          | protected
`;

test("I3: an ack that was sent before this host was back releases nothing; that of a later checkpoint releases all of it", () => {
  playPrimary(`${LATE}
    @900 acked 1      →                          | protected
    @901 requested    → capture 2
    @902 captured 2   →
         sent 2       →
    @903 acked 2      → release 2                | protected
  `);
});

test("I3: every late hearing counts anew", () => {
  playPrimary(`${LATE}
    @900 acked 1      →
    @901 requested    → capture 2
    @902 captured 2   →
         sent 2       →
    @990 heard-late   →
    @990 acked 2      →
    @991 requested    → capture 3
    @992 captured 3   →
         sent 3       →
    @993 acked 3      → release 3
  `);
});

test("I3: a checkpoint that is being captured when this host is back is sent after that, and its ack counts", () => {
  playPrimary(`${ONE_IN_FLIGHT}
    @30  acked 1      → release 1
         requested    → wake 50
    @50  tick         → capture 2
    @900 heard-late   →
    @901 captured 2   →
         sent 2       →
    @902 acked 2      → release 2
  `);
});

test("I3: a backup that took over meanwhile has said so behind its last ack", () => {
  playPrimary(`${LATE}
    @900 acked 1      →
    @900 takeover 2   → kill-vm                | superseded
  `);
  playPrimary(`${LATE}
    @900 acked 1      →
    @900 link-lost    → warn, close-link, ask-arbiter 1 | arbitrating
    @901 acked 2      →                          | arbitrating
  `);
});

test("I3: while leaving, no late ack releases anything; that the backup has stood down releases all", () => {
  const leaving = `${ONE_IN_FLIGHT}\n stop-asked → send-goodbye | leaving`;
  playPrimary(`${leaving}
    @900 heard-late   →                          | leaving
    @900 acked 1      →                          | leaving
    @900 goodbye-ok   → release-all, end-capture, close-link | ending
  `);
  // The doubt is taken along; the last checkpoint, captured after it, ends it.
  playPrimary(`${ONE_IN_FLIGHT}
    @30  acked 1      → release 1
         requested    → wake 50
    @50  tick         → capture 2
    @900 heard-late   →
         stop-asked   →
    @901 captured 2   → send-goodbye             | leaving
    @902 acked 2      → release 2                | leaving
  `);
  playPrimary(`${LATE}
         stop-asked   → send-goodbye             | leaving
    @902 acked 1      →                          | leaving
  `);
});

test("switchover: with the VM paused at a checkpoint whose ack comes late, it is given up, and the VM proceeds", () => {
  const held = `${ONE_IN_FLIGHT}
    @30  acked 1           → release 1
         switchover-asked  →
         requested         → wake 50
    @50  tick              → capture 2 hold
    @51  captured 2        →
         sent 2            →
  `;
  const state = playPrimary(`${held}
    @900 heard-late        →
    @900 acked 2           → proceed, warn       | protected
    @901 requested         → capture 3
    @902 captured 3        →
         sent 3            →
    @903 acked 3           → release 3           | protected
  `);
  assert.equal(state.phase === "protected" && state.switchover, false);
  playPrimary(`${held}
    @52  acked 2           → release 2, send-handover 2 | handing-over
    @900 heard-late        →                     | handing-over
    @900 handover-refused  → proceed, warn       | protected
    @901 requested         → wake 925
    @925 tick              → capture 3
    @926 captured 3        →
         sent 3            →
    @927 acked 3           → release 3
  `);
});

test("I4: the word of a host that had the VM before this one does not stop it", () => {
  const solo = `${ONE_IN_FLIGHT}
    link-lost          → warn, close-link, ask-arbiter 1  | arbitrating
    verdict granted 2  → release-all, end-capture, warn   | ending
    capture-ended      →                                  | unprotected
    takeover 1         →                                  | unprotected
    protect-asked      → connect                          | connecting
  `;
  const state = playPrimary(`${solo}\n takeover 1 → warn | unprotected`);
  assert.deepEqual(state, { phase: "unprotected", generation: 2 });
  // Of one's own generation it is believed: somebody has to yield.
  playPrimary(`${solo}\n takeover 2 → kill-vm | superseded`);
});

const ASKED = `
  session-opened 1     →                                      | filling
  checkpoint-whole 0   → ack 0, commit 0                      | armed
  handover-asked 0     → drop-incomplete, ask-arbiter 1       | arbitrating
`;

test("I4, switchover: who stands down before the arbiter's word came gives up the generation that it had asked for", () => {
  for (const why of ["handover-expired", "commit-failed", "standby-failed"])
    assert.equal(
      playBackup(`${ASKED}\n ${why} → refuse-handover stood-down, error | stood-down`).generation,
      2,
    );
  const lost = `${ASKED}\n primary-lost → warn | arbitrating`;
  assert.equal(playBackup(`${lost}\n standby-failed → close-link, error | stood-down`).generation, 2);
});
