/** The demo as a user starts it: its figures, and that nothing of it is left, also after Ctrl-C. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import type { DemoReport } from "../../src/lab/demo.ts";

const main = join(import.meta.dirname, "../../src/lab/main.ts");

interface Demo {
  readonly pid: number;
  readonly lines: string[];
  readonly ended: Promise<number | null>;
  /** Resolves when a line that matches is printed. */
  printed(pattern: RegExp): Promise<void>;
  signal(signal: NodeJS.Signals): void;
}

function startDemo(t: TestContext, words: readonly string[]): Demo {
  const child = spawn(process.execPath, [main, "demo", ...words], { stdio: ["ignore", "pipe", "pipe"] });
  t.after(() => child.kill("SIGKILL"));
  const lines: string[] = [];
  const waiting: { pattern: RegExp; resolve: () => void }[] = [];
  for (const stream of [child.stdout, child.stderr])
    createInterface({ input: stream }).on("line", (line) => {
      lines.push(line);
      for (const { pattern, resolve } of waiting) if (pattern.test(line)) resolve();
    });
  const ended = new Promise<number | null>((resolve) => child.once("exit", resolve));
  return {
    pid: child.pid!,
    lines,
    ended,
    printed: (pattern) =>
      Promise.race([
        new Promise<void>((resolve) => waiting.push({ pattern, resolve })),
        ended.then((status) => assert.fail(`the demo ended with ${status}: ${lines.join("\n")}`)),
      ]),
    signal: (signal) => child.kill(signal),
  };
}

/**
 * Namespaces, files in memory and processes that a demo with this pid, or a lab in this directory, may have
 * left.
 */
function leftovers(pid: number, before: ReadonlySet<string>): string[] {
  const namespaces = readdirSync("/run/netns").filter((name) => name.startsWith(`remus-${pid}-`));
  const files = readdirSync("/dev/shm").filter((name) => name.startsWith("remus-lab-") && !before.has(name));
  const processes = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        const words = readFileSync(`/proc/${name}/cmdline`, "utf8");
        return words.includes("/remus-lab-") && ![...before].some((directory) => words.includes(directory));
      } catch {
        return false;
      }
    });
  return [...namespaces, ...files, ...processes.map((id) => `process ${id}`)];
}

test("the demo: the VM outlives its host, and the figures are all there", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "remus-demo-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const before = new Set(readdirSync("/dev/shm"));
  const json = join(directory, "f.json");
  const demo = startDemo(t, ["--load", "busy", "--seconds", "4", "--seed", "7", "--json", json]);
  assert.equal(await demo.ended, 0, demo.lines.join("\n"));
  const report = JSON.parse(readFileSync(json, "utf8")) as DemoReport;
  const { client } = report;
  assert.deepEqual(
    [client.connections, client.resets, client.lost, client.wentBack, report.ramMismatches],
    [1, 0, 0, 0, 0],
  );
  assert.ok(report.ramChecks > 0 && report.checkpoints > 0 && report.bytesOnWire > 0);
  for (const figure of [
    report.checkpointsPerSecond,
    ...Object.values(report.pauseMs),
    ...Object.values(report.dirtyPages),
    ...Object.values(report.failover),
    client.requests,
    client.acked,
    client.longestGapMs,
  ])
    assert.ok(Number.isFinite(figure) && figure > 0, JSON.stringify(report));
  assert.deepEqual(leftovers(demo.pid, before), []);
});

for (const [when, pattern] of [
  ["while the guest boots", /booting the VM/],
  ["while the VM is protected", /epoch \d+/],
] as const)
  test(`Ctrl-C ${when}: everything is cleaned up`, async (t) => {
    const before = new Set(readdirSync("/dev/shm"));
    const demo = startDemo(t, ["--load", "busy"]);
    await demo.printed(pattern);
    demo.signal("SIGINT");
    assert.equal(await demo.ended, 130, demo.lines.join("\n"));
    assert.deepEqual(leftovers(demo.pid, before), []);
  });

test("an option that makes no sense: one sentence, nothing started", async (t) => {
  const demo = startDemo(t, ["--interval", "0"]);
  assert.equal(await demo.ended, 1);
  assert.match(demo.lines.join("\n"), /--interval.*must be a whole number from 1 to 10000/);
});
