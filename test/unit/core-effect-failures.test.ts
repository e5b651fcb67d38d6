// docs/specs/protocol.md says what an effect's failure means, by effect and phase. Here its two tables are
// compared with core/effect-failures.ts, and the rule behind them is proved: a host with the only copy of a
// VM never ends it because of an error beside it (I5).

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { BackupState } from "../../src/core/backup.ts";
import {
  type BackupDuty,
  backupRemedy,
  type PrimaryDuty,
  primaryRemedy,
} from "../../src/core/effect-failures.ts";
import { startPacing } from "../../src/core/pacer.ts";
import type { PrimaryState, ProtectedState } from "../../src/core/primary-protocol.ts";
import { SETTINGS } from "./core-scenario.ts";

const generation = 1;
const isProtected: ProtectedState = {
  phase: "protected",
  generation,
  running: 5,
  acked: 3,
  capture: "idle",
  capturedMs: 0,
  pacer: startPacing(0, SETTINGS),
  holdAt: undefined,
  switchover: false,
  leaveBecause: undefined,
  releaseFrom: 0,
};
const PRIMARY: readonly PrimaryState[] = [
  { phase: "unprotected", generation },
  { phase: "connecting", generation },
  { phase: "syncing", generation },
  { ...isProtected, running: 1, acked: -1 },
  { ...isProtected, running: 1, acked: 0 },
  isProtected,
  { phase: "handing-over", generation, acked: 4, held: true, leaveBecause: undefined },
  { phase: "leaving", generation, acked: 3, releaseFrom: 0 },
  {
    phase: "arbitrating",
    generation,
    acked: 3,
    proceedWhenCaptured: false,
    proceedWhenGranted: false,
    planned: false,
  },
  { phase: "ending", generation },
  { phase: "superseded", generation, planned: false },
];
const holding = { generation, acked: 5, committed: 3 };
const BACKUP: readonly BackupState[] = [
  { phase: "waiting", generation },
  { phase: "filling", generation },
  { ...holding, phase: "armed" },
  ...[false, true].map((planned) => ({ ...holding, phase: "arbitrating", planned }) as const),
  ...[false, true].map((planned) => ({ ...holding, phase: "recovering", planned }) as const),
  { phase: "running", generation },
  { phase: "stood-down", generation, reason: "" },
];
const PRIMARY_DUTIES: readonly PrimaryDuty[] = [
  "connect",
  "start-capture",
  "begin-epochs",
  "capture",
  "proceed",
  "release",
  "release-all",
  "end-capture",
  "send-goodbye",
  "send-handover",
  "close-link",
  "ask-arbiter",
  "kill-vm",
  "remind-hypervisor",
  "wake",
  "report",
  "step",
  "stepped",
  "uncaught",
];
const BACKUP_DUTIES: readonly BackupDuty[] = [
  "ack",
  "commit",
  "commit-again",
  "drop-incomplete",
  "forget",
  "goodbye-ok",
  "close-link",
  "ask-arbiter",
  "takeover",
  "refuse-handover",
  "unable",
  "run-standby",
  "report",
  "step",
  "stepped",
  "uncaught",
];

type Table = Record<string, Record<string, string>>;

function table<S extends { phase: string }, D extends string>(
  states: readonly S[],
  rows: readonly (readonly [string, D, boolean])[],
  remedy: (duty: D, broken: boolean, state: S) => string,
): Table {
  return Object.fromEntries(
    rows.map(([name, duty, broken]) => {
      const cells: Record<string, Set<string>> = {};
      for (const state of states) {
        const cell = cells[state.phase] ?? new Set();
        cells[state.phase] = cell.add(remedy(duty, broken, state));
      }
      return [
        name,
        Object.fromEntries(Object.entries(cells).map(([phase, all]) => [phase, [...all].join(" / ")])),
      ];
    }),
  );
}

function documented(heading: string): Table {
  const text = readFileSync(new URL("../../docs/specs/protocol.md", import.meta.url), "utf8");
  const section = text.split(/^#+ /m).find((one) => one.startsWith(`${heading}\n`));
  assert.ok(section, `no heading "${heading}" in protocol.md`);
  const rows = section
    .split("\n")
    .filter((line) => line.startsWith("|"))
    .map((line) => line.split("|").slice(1, -1))
    .map((row) => row.map((cell) => cell.replaceAll("`", "").trim()));
  const [head, , ...body] = rows;
  return Object.fromEntries(
    body.map(([name, ...row]) => [name!, Object.fromEntries(row.map((cell, n) => [head![n + 1]!, cell]))]),
  );
}

const rows = <D extends string>(duties: readonly D[], ...asserted: readonly D[]) => [
  ...duties.map((duty) => [duty, duty, false] as const),
  ...asserted.map((duty) => [`${duty}, invariant broken`, duty, true] as const),
];
const primary = table(PRIMARY, rows(PRIMARY_DUTIES, "release"), primaryRemedy);
const backup = table(BACKUP, rows(BACKUP_DUTIES, "ack", "run-standby", "step", "stepped"), backupRemedy);

test("protocol.md: what a failed effect of the primary means is as in core/effect-failures", () => {
  assert.deepEqual(documented("Primary: an effect that fails"), primary);
});

test("protocol.md: what a failed effect of the backup means is as in core/effect-failures", () => {
  assert.deepEqual(documented("Backup: an effect that fails"), backup);
});

test("I5: no failure ends the VM of a primary, but where the backup holds an acknowledged checkpoint and an invariant is broken", () => {
  for (const state of PRIMARY)
    for (const duty of PRIMARY_DUTIES)
      for (const broken of [false, true]) {
        const remedy = primaryRemedy(duty, broken, state);
        const safe = state.phase === "protected" && state.acked >= 0 && (broken || duty === "step");
        assert.equal(remedy === "kill-vm", safe, `${duty}, broken: ${broken}, ${JSON.stringify(state)}`);
      }
});

test("I4: an error beside it makes no backup give up what it has acknowledged; only a broken invariant does", () => {
  for (const state of BACKUP.filter(({ phase }) => phase === "armed"))
    for (const duty of BACKUP_DUTIES) assert.notEqual(backupRemedy(duty, false, state), "begin-anew", duty);
});

test("I4: no failure makes a backup give up the VM of a lost primary", () => {
  const gives = ["begin-anew", "standby-failed"];
  for (const state of BACKUP) {
    const only =
      state.phase === "running" ||
      ((state.phase === "arbitrating" || state.phase === "recovering") && !state.planned);
    if (!only) continue;
    for (const duty of BACKUP_DUTIES)
      for (const broken of [false, true])
        assert.ok(!gives.includes(backupRemedy(duty, broken, state)), `${duty} while ${state.phase}`);
  }
});

test("I4: running a lost primary's VM, and going on as its primary, are tried again whatever failed in them", () => {
  for (const broken of [false, true]) {
    for (const state of BACKUP) assert.equal(backupRemedy("stepped", broken, state), "again", state.phase);
    for (const state of BACKUP)
      if (state.phase === "recovering" && !state.planned)
        assert.equal(backupRemedy("run-standby", broken, state), "again");
  }
});
