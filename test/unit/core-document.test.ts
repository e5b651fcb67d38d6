// docs/specs/protocol.md says what every event does in every state. Here its two tables are compared with the
// cores, cell by cell. What a cell should read is in the message of the assertion that fails.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { type BackupEvent, type BackupState, stepBackup } from "../../src/core/backup.ts";
import { startPacing } from "../../src/core/pacer.ts";
import { stepPrimary } from "../../src/core/primary.ts";
import type { PrimaryEvent, PrimaryState, ProtectedState } from "../../src/core/primary-protocol.ts";
import { IllegalTransition, InvariantBroken } from "../../src/core/transition.ts";
import { SETTINGS } from "./core-scenario.ts";

const NOW = 30;
const reason = "a reason";

/**
 * What may come of an event: `=` the phase stays, `–` it cannot happen, an invariant's name, or the next
 * phase.
 */
function outcome<S extends { phase: string }>(state: S, step: () => { state: { phase: string } }): string {
  try {
    const { phase } = step().state;
    return phase === state.phase ? "=" : phase;
  } catch (error) {
    if (error instanceof IllegalTransition) return "–";
    if (error instanceof InvariantBroken) return error.message.slice(0, 2);
    throw error;
  }
}

/** Of each phase every state that can make a difference, and of each event every content that can. */
function cells<S extends { phase: string }, E>(
  states: readonly S[],
  events: Readonly<Record<string, readonly E[]>>,
  step: (state: S, event: E) => { state: { phase: string } },
): Map<string, Map<string, string>> {
  const table = new Map<string, Map<string, string>>();
  for (const [name, variants] of Object.entries(events)) {
    const row = new Map<string, string>();
    for (const phase of new Set(states.map((state) => state.phase))) {
      const all = states
        .filter((state) => state.phase === phase)
        .flatMap((state) => variants.map((event) => outcome(state, () => step(state, event))));
      row.set(phase, [...new Set(all)].sort().join(" / "));
    }
    table.set(name, row);
  }
  return table;
}

/** The first table below a heading. */
function documented(heading: string): Map<string, Map<string, string>> {
  const text = readFileSync(new URL("../../docs/specs/protocol.md", import.meta.url), "utf8");
  const section = text.split(/^#+ /m).find((one) => one.startsWith(`${heading}\n`));
  assert.ok(section, `no heading "${heading}" in protocol.md`);
  const rows = section
    .split("\n")
    .filter((line) => line.startsWith("|"))
    .map((line) => line.split("|").slice(1, -1))
    .map((row) => row.map((cell) => cell.replaceAll("`", "").trim()));
  const [head, , ...body] = rows;
  return new Map(
    body.map(([event, ...row]) => [event!, new Map(row.map((cell, n) => [head![n + 1]!, cell]))]),
  );
}

function compare(heading: string, actual: Map<string, Map<string, string>>): void {
  const written = documented(heading);
  assert.deepEqual([...written.keys()], [...actual.keys()], `events under "${heading}"`);
  for (const [event, row] of actual)
    assert.deepEqual(
      Object.fromEntries(written.get(event)!),
      Object.fromEntries(row),
      `${heading}: ${event}`,
    );
}

const running: ProtectedState = {
  phase: "protected",
  generation: 1,
  running: 5,
  acked: 3,
  capture: "idle",
  capturedMs: 0,
  pacer: { ...startPacing(0, SETTINGS), sent: 4 },
  holdAt: undefined,
  switchover: false,
  leaveBecause: undefined,
  releaseFrom: 0,
};
const arbitrating = {
  phase: "arbitrating",
  generation: 1,
  acked: 3,
  proceedWhenCaptured: false,
  proceedWhenGranted: false,
  planned: false,
} as const;
const PRIMARY: readonly PrimaryState[] = [
  { phase: "unprotected", generation: 1 },
  { phase: "connecting", generation: 1 },
  { phase: "syncing", generation: 1 },
  ...(["idle", "requested", "capturing", "capturing-to-proceed"] as const).map((capture) => ({
    ...running,
    capture,
  })),
  ...(["capturing-to-hold", "held"] as const).map((capture) => ({ ...running, capture, holdAt: 5 })),
  { ...running, holdAt: 7 },
  ...(["idle", "requested", "capturing", "capturing-to-hold", "capturing-to-proceed"] as const).map(
    (capture) => ({ ...running, capture, switchover: true }),
  ),
  // Checkpoint 4 is the one to be handed over at.
  { ...running, capture: "held", switchover: true },
  { ...running, capture: "held", switchover: true, releaseFrom: 5 },
  { ...running, capture: "capturing", leaveBecause: reason },
  ...[true, false].flatMap((held) =>
    [undefined, reason].map(
      (leaveBecause) => ({ phase: "handing-over", generation: 1, acked: 4, held, leaveBecause }) as const,
    ),
  ),
  { phase: "leaving", generation: 1, acked: 3, releaseFrom: 0 },
  arbitrating,
  { ...arbitrating, proceedWhenCaptured: true },
  { ...arbitrating, proceedWhenGranted: true, planned: true },
  { phase: "ending", generation: 1 },
  { phase: "superseded", generation: 2, planned: false },
];
const PRIMARY_EVENTS: Record<string, PrimaryEvent[]> = {
  "protect-asked": [{ type: "protect-asked" }],
  "stop-asked": [{ type: "stop-asked" }],
  "link-up": [{ type: "link-up" }],
  "link-lost": [{ type: "link-lost", reason }],
  "first-pass-done": [{ type: "first-pass-done" }],
  requested: [{ type: "requested" }],
  "capture-put-off": [{ type: "capture-put-off" }],
  captured: [5, 6].map((epoch) => ({ type: "captured", epoch, bytes: 4096 })),
  sent: [{ type: "sent", epoch: 4 }],
  acked: [3, 4, 5].map((epoch) => ({ type: "acked", epoch })),
  "heard-late": [{ type: "heard-late" }],
  "goodbye-ok": [{ type: "goodbye-ok" }],
  unable: [{ type: "unable", reason }],
  takeover: [{ type: "takeover", generation: 2 }],
  "takeover, older": [{ type: "takeover", generation: 0 }],
  "verdict granted": [{ type: "verdict", granted: true, generation: 2 }],
  "verdict denied": [{ type: "verdict", granted: false, generation: 2 }],
  "capture-failed": [{ type: "capture-failed", reason }],
  "output-failed": [{ type: "output-failed", reason }],
  "disk-failed": [{ type: "disk-failed", reason }],
  "capture-ended": [{ type: "capture-ended" }],
  "hypervisor-hung": [{ type: "hypervisor-hung", reason }],
  "hold-asked": [{ type: "hold-asked", atEpoch: 0 }],
  "proceed-asked": [{ type: "proceed-asked" }],
  "switchover-asked": [{ type: "switchover-asked" }],
  "handover-refused": [{ type: "handover-refused", reason, stoodDown: false, generation: 1 }],
  "handover-refused stood-down": [{ type: "handover-refused", reason, stoodDown: true, generation: 2 }],
  tick: [{ type: "tick" }],
};

const holding = { generation: 1, acked: 5, committed: 3 };
const BACKUP: readonly BackupState[] = [
  { phase: "waiting", generation: 2 },
  { phase: "filling", generation: 1 },
  { ...holding, phase: "armed" },
  ...[false, true].flatMap((planned) => [
    { ...holding, phase: "arbitrating", planned } as const,
    { ...holding, phase: "recovering", planned } as const,
  ]),
  { phase: "running", generation: 2 },
  { phase: "stood-down", generation: 2, reason },
];
const BACKUP_EVENTS: Record<string, BackupEvent[]> = {
  "session-opened": [1, 2].map((generation) => ({ type: "session-opened", generation })),
  "checkpoint-whole": [0, 6, 7].map((epoch) => ({ type: "checkpoint-whole", epoch })),
  committed: [4, 5].map((epoch) => ({ type: "committed", epoch })),
  goodbye: [{ type: "goodbye" }],
  "primary-lost": [{ type: "primary-lost", reason }],
  "verdict granted": [{ type: "verdict", granted: true, generation: 2 }],
  "verdict denied": [{ type: "verdict", granted: false, generation: 2 }],
  "standby-runs": [{ type: "standby-runs" }],
  "standby-failed": [{ type: "standby-failed", reason }],
  "handover-asked": [5, 6].map((epoch) => ({ type: "handover-asked", epoch })),
  "handover-expired": [{ type: "handover-expired" }],
  "commit-failed": [{ type: "commit-failed", reason }],
};

test("protocol.md: the primary's events and states are as in core/primary", () => {
  const step = (state: PrimaryState, event: PrimaryEvent) => stepPrimary(state, event, NOW, SETTINGS);
  compare("Primary: events and states", cells(PRIMARY, PRIMARY_EVENTS, step));
});

test("protocol.md: the backup's events and states are as in core/backup", () => {
  compare("Backup: events and states", cells(BACKUP, BACKUP_EVENTS, stepBackup));
});
