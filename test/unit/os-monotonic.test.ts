// The clock by which the age of an acknowledgement is judged (I3).
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { monotonicMs, monotonicNs } from "../../src/os/monotonic.ts";

const FILE = new URL("../../src/os/monotonic.ts", import.meta.url).href;

test("I3: time in which the host was suspended counts: the clock is CLOCK_BOOTTIME", (t) => {
  // A namespace in which the machine slept for a day longer, and CLOCK_MONOTONIC does not know.
  const words = ["--time", "--boottime", "86400", process.execPath, "--input-type=module", "-e"];
  const script = `import { monotonicMs } from ${JSON.stringify(FILE)}; console.log(monotonicMs(), performance.timeOrigin)`;
  const before = monotonicMs();
  let said: string;
  try {
    said = execFileSync("unshare", [...words, script], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    });
  } catch (error) {
    if (!/Operation not permitted|unrecognized option/.test((error as Error).message)) throw error;
    t.skip("this user may not make a time namespace");
    return;
  }
  const asleepMs = 86_400_000;
  const [there] = said.trim().split(" ").map(Number);
  assert.ok(there! - before >= asleepMs, `${there} ms there, ${before} ms here before`);
  assert.ok(there! - monotonicMs() <= asleepMs);
});

test("it does not go back, in either unit", () => {
  const times = Array.from({ length: 1000 }, () => [monotonicMs(), Number(monotonicNs()) / 1e6]).flat();
  assert.deepEqual(
    times,
    [...times].sort((a, b) => a - b),
  );
});
