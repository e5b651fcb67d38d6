/**
 * `npm run sim`: the production core and guardian in a made-up world (docs/specs/simulator.md).
 *
 *   npm run sim -- --runs N [--seed FIRST] [--hours H] [--threads T]   many seeds; status 1 at a violation
 *   npm run sim -- --seed N [--hours H] [--verbose]                    one seed, with its transcript
 *   npm run sim -- --scenario NAME [--seed N]                          a scenario of test/sim/scenarios/
 *   npm run sim -- --planted | --bug NAME [--wide] [--runs N] [--seed N]   with bugs planted, one at a time;
 *                                                                      status 1 if one is not found
 *
 * Bugs are looked for in random worlds in which what could show them goes wrong more often; `--wide`: in
 * worlds of all kinds.
 */
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { BUGS } from "./bugs.ts";
import { type Hunt, huntAll, playMany } from "./many.ts";
import type { Result } from "./player.ts";
import { scenarioNamed } from "./scenarios/all.ts";
import { install } from "./stand-ins.ts";

const LAST_LINES = 120;

const { values } = parseArgs({
  options: {
    runs: { type: "string" },
    seed: { type: "string" },
    hours: { type: "string" },
    threads: { type: "string" },
    verbose: { type: "boolean", default: false },
    planted: { type: "boolean", default: false },
    wide: { type: "boolean", default: false },
    bug: { type: "string" },
    scenario: { type: "string" },
  },
});

const number = (text: string | undefined, name: string): number | undefined => {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!(value >= 0)) throw new Error(`--${name} ${text}: a number is expected`);
  return value;
};
const seed = number(values.seed, "seed");
const runs = number(values.runs, "runs");
const hours = number(values.hours, "hours");
const threads = number(values.threads, "threads") ?? availableParallelism();
const { bug, scenario } = values;

async function main(): Promise<number> {
  if (values.planted || (bug !== undefined && seed === undefined)) return await plant();
  if (scenario !== undefined || (seed !== undefined && runs === undefined)) return await one(seed ?? 1);
  return await many(runs ?? 200);
}

async function many(count: number): Promise<number> {
  const began = performance.now();
  const first = seed ?? 1;
  let toldMs = 0;
  let told = 0;
  const result = await playMany({
    first,
    runs: count,
    threads,
    ...(hours === undefined ? {} : { hours }),
    progress: (soFar) => {
      for (; told < soFar.violations.length; told++) tell(soFar.violations[told]!);
      if (performance.now() - toldMs < 5000) return;
      toldMs = performance.now();
      console.log(`${soFar.runs} of ${count} runs, ${soFar.violations.length} violations`);
    },
  });
  const seconds = (performance.now() - began) / 1000;
  for (const [what, times] of Object.entries(result.seen).sort(([a], [b]) => (a < b ? -1 : 1)))
    console.log(`${String(times).padStart(9)} ${what}`);
  result.violations.forEach(tell);
  const { system, user } = process.cpuUsage();
  const simulatedHours = (result.simulatedMs / 3_600_000).toFixed(1);
  console.log(
    `\n${result.runs} runs from seed ${first}, ${simulatedHours} simulated hours, in ${seconds.toFixed(0)} s (${((system + user) / 1e6).toFixed(0)} s of CPU time, ${threads} threads): ${result.violations.length} violations`,
  );
  return result.violations.length === 0 ? 0 : 1;
}

function tell({ seed, text }: Result["violations"][number]): void {
  console.log(`\nseed ${seed}: ${text.split("\n")[0]}`);
  console.log(`  npm run sim -- --seed ${seed}${hours === undefined ? "" : ` --hours ${hours}`}`);
}

async function one(seed: number): Promise<number> {
  // Before anything of src/ is loaded; and played outside of any promise, or none could be brought to its
  // end.
  const startOutside = setImmediate;
  install(bug === undefined ? [] : (BUGS[bug]?.patches ?? []));
  const { play } = await import("./play.ts");
  const { playScenario } = await import("./scenario.ts");
  const keepTranscript = values.verbose ? 10_000_000 : 2000;
  const focus = bug === undefined || values.wide ? {} : (BUGS[bug]?.focus ?? {});
  return await new Promise((resolve) =>
    startOutside(() => {
      const { transcript, violation } =
        scenario === undefined
          ? play({ seed, focus, keepTranscript, ...(hours === undefined ? {} : { hours }) })
          : playScenario(scenarioNamed(scenario), seed);
      console.log((values.verbose ? transcript : transcript.slice(-LAST_LINES)).join("\n"));
      console.log(`\nseed ${seed}: ${violation ?? "no violation"}`);
      resolve(violation === undefined ? 0 : 1);
    }),
  );
}

async function plant(): Promise<number> {
  const most = runs ?? 1000;
  const told = ({ bug, found, ms, runs }: Hunt) =>
    console.log(
      found === undefined
        ? `NOT FOUND in ${runs} runs: ${bug}`
        : `found in run ${runs} (${(ms / 1000).toFixed(1)} s): ${bug}\n    ${found.text.split("\n")[0]}\n    npm run sim -- --bug ${JSON.stringify(bug)}${values.wide ? " --wide" : ""} --seed ${found.seed}`,
    );
  const hunts = await huntAll(bug === undefined ? Object.keys(BUGS) : [bug], {
    most,
    focused: !values.wide,
    threads,
    told,
  });
  const missed = hunts.filter(({ found }) => found === undefined).length;
  console.log(`\n${hunts.length - missed} of ${hunts.length} planted bugs found, each within ${most} runs`);
  return missed === 0 ? 0 : 1;
}

process.exit(await main());
