/**
 * `npm run soak -- [--runs 20] [--seconds 30] [--load busy]`: the demo again and again, with other seeds and
 * every kind of failure but the link's. Prints a line a run and what it came to.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { DemoReport } from "../src/lab/demo.ts";

const { values } = parseArgs({
  options: {
    runs: { type: "string", default: "20" },
    seconds: { type: "string", default: "30" },
    load: { type: "string", default: "busy" },
  },
});
const kinds = ["power", "qemu", "guardian"];
const demo = join(import.meta.dirname, "../src/lab/main.ts");
const directory = mkdtempSync(join(tmpdir(), "remus-soak-"));
let passed = 0;
let failed = 0;

function line(report: DemoReport): string {
  const { client, failover, pauseMs } = report;
  return (
    `connections ${client.connections}, resets ${client.resets}, lost ${client.lost}, wentBack ${client.wentBack}, ` +
    `RAM ${report.ramMismatches}/${report.ramChecks}, answers ${client.acked}, longest gap ${client.longestGapMs.toFixed(0)} ms, ` +
    `outage ${failover.outageMs?.toFixed(0)} ms, ${report.checkpointsPerSecond.toFixed(1)}/s, pause ${pauseMs.p50.toFixed(1)} ms`
  );
}

try {
  for (let run = 1; run <= Number(values.runs); run++) {
    const kill = kinds[run % kinds.length]!;
    const json = join(directory, `${run}.json`);
    const words = [
      "--load",
      values.load,
      "--seconds",
      values.seconds,
      "--seed",
      String(run),
      "--kill",
      kill,
      "--json",
      json,
    ];
    const { status, stdout, stderr } = spawnSync(process.execPath, [demo, "demo", ...words], {
      encoding: "utf8",
    });
    if (status === 0) passed++;
    else failed++;
    const report = status === null || status > 1 ? undefined : readReport(json);
    console.log(
      `run ${run} (${kill}, seed ${run}): ${status === 0 ? "ok" : "FAILED"}; ${report === undefined ? "no report" : line(report)}`,
    );
    if (status !== 0) console.log(`${stdout.split("\n").slice(-30).join("\n")}\n${stderr}`);
  }
} finally {
  rmSync(directory, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);

function readReport(path: string): DemoReport | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as DemoReport;
  } catch {
    return undefined;
  }
}
