/** A sample of `npm run torture`: real faults at exact points of the epoch cycle (I1, I3, I4, I7). */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { Played } from "../../bench/torture/table.ts";

const torture = join(import.meta.dirname, "../../bench/torture.ts");

test("the host is killed when it has just released output; a connection dies for one side alone, in the pause: one client, nothing lost, one owner", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "remus-torture-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const json = join(directory, "f.json");
  const cells = ["kill-host/after-release/network", "half-open/before-resume/disk"];
  const { pid, status, stdout, stderr } = spawnSync(
    process.execPath,
    [torture, ...cells.flatMap((cell) => ["--cell", cell]), "--json", json],
    { encoding: "utf8", timeout: 120_000 },
  );
  assert.equal(status, 0, stdout + stderr);
  const played = JSON.parse(readFileSync(json, "utf8")) as Played[];
  assert.equal(played[0]!.report!.frames.owners.join(""), "ab");
  for (const { report } of played) {
    assert.ok(report!.client.acked > 20, stdout);
    assert.equal(report!.frames.late, 0);
  }
  assert.deepEqual(
    readdirSync("/run/netns").filter((name) => name.startsWith(`remus-${pid}-`)),
    [],
  );
});
