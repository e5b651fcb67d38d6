/**
 * The full circle as a user starts it: host A dies, returns, and gets its VM back, with one connection alive
 * all the while (I4, I7).
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type CircleReport, circleSucceeded } from "../../src/lab/circle.ts";

const main = join(import.meta.dirname, "../../src/lab/main.ts");

test("a round of the circle: one connection, nothing lost, hosts equal, and both resyncs by records", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "remus-circle-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const json = join(directory, "f.json");
  const { pid, status, stdout, stderr } = spawnSync(
    process.execPath,
    [main, "circle", "--rounds", "1", "--disk-mib", "64", "--json", json],
    { encoding: "utf8", timeout: 120_000 },
  );
  assert.equal(status, 0, stdout + stderr);
  const report = JSON.parse(readFileSync(json, "utf8")) as CircleReport;
  const { connections, resets, lost, wentBack, repeated } = report.client;
  assert.deepEqual(
    { connections, resets, lost, wentBack, repeated },
    { connections: 1, resets: 0, lost: 0, wentBack: 0, repeated: 0 },
  );
  assert.equal(report.rounds.length, 1);
  const { failoverGapMs, handBackBytes, handBackWay, mismatches, resyncBytes, resyncWay, switchoverGapMs } =
    report.rounds[0]!;
  assert.deepEqual([resyncWay, handBackWay, mismatches], ["records", "records", 0]);
  for (const bytes of [resyncBytes, handBackBytes]) assert.ok(bytes > 0 && bytes < 16 << 20, stdout);
  // The failure takes 200 ms to be noticed, and both are far below what a client calls a failure.
  assert.ok(failoverGapMs > 200 && switchoverGapMs > 0, stdout);
  assert.deepEqual(
    readdirSync("/run/netns").filter((name) => name.startsWith(`remus-${pid}-`)),
    [],
  );
});

test("a circle in which anything went wrong is no success", () => {
  const client = { connections: 1, resets: 0, acked: 9, lost: 0, wentBack: 0, repeated: 0, longestGapMs: 1 };
  const well: CircleReport = { rounds: [], firstSyncBytes: 1, mismatches: 0, client };
  assert.ok(circleSucceeded(well));
  assert.ok(!circleSucceeded({ ...well, mismatches: 1 }));
  for (const name of ["connections", "resets", "lost", "wentBack", "repeated"] as const)
    assert.ok(!circleSucceeded({ ...well, client: { ...client, [name]: client[name] + 1 } }), name);
});
