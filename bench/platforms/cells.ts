/** What is tried on each platform: a user's own commands, and for what they do not show the tests of it. */
import type { CircleReport } from "../../src/lab/circle.ts";
import type { DemoReport } from "../../src/lab/demo.ts";

export interface Cell {
  readonly name: string;
  /** Run in the project's folder, in the root. `JSON` stands for the file that figures go to. */
  readonly words: readonly string[];
  /** Fetches packages. */
  readonly network?: true;
  /** Takes so long that it runs only when it is named. */
  readonly whenNamed?: true;
  /** A few figures for the table, of what was written and printed. */
  readonly figures: (json: unknown, output: string) => string;
  /** Whether the command, which ended well, has seen enough to say so. */
  readonly sawEnough?: (json: unknown) => boolean;
}

/** What a command's words say where its figures' file is to be. */
export const JSON_PLACE = "JSON";

const node = "node_modules/.bin/node";
const testsOf = (...files: readonly string[]) => [
  node,
  "--test",
  "--test-concurrency=1",
  "--test-timeout=300000",
  ...files.map((file) => `test/e2e/${file}.test.ts`),
];
/** How long a failure takes to be noticed is not the question here, and a small machine may be busy. */
const DETECTION_MS = "1500";
const demo = (kill: string) => [
  ...["--kill", kill, "--seconds", "12", "--seed", "1"],
  ...["--detection", DETECTION_MS, "--json", JSON_PLACE],
];
/** What `npm test` says at its end. */
const whole = (_json: unknown, output: string) =>
  /^\d+ passed, \d+ failed, \d+ skipped$/m.exec(output)?.[0] ?? "did not come to its end";
const count = (_json: unknown, output: string) => `${/^. pass (\d+)$/m.exec(output)?.[1] ?? "no"} tests`;

const demoFigures = (json: unknown) => {
  const { client, failover, pauseMs, ramChecks, ramMismatches } = json as DemoReport;
  const outage = failover.outageMs === null ? "" : `, outage ${failover.outageMs.toFixed(0)} ms`;
  return `pause ${pauseMs.p50.toFixed(1)} ms${outage}, RAM ${ramChecks - ramMismatches}/${ramChecks}, ${client.lost} lost`;
};

/** A machine that is busy may get to the kill before the first comparison of RAM is done. */
const demoSawEnough = (json: unknown) => (json as DemoReport).ramChecks > 0;

export const cells: readonly Cell[] = [
  {
    name: "set-up",
    words: ["npm", "run", "setup"],
    network: true,
    figures: () => "",
  },
  {
    name: "npm start (power)",
    words: ["npm", "start", "--", ...demo("power")],
    figures: demoFigures,
    sawEnough: demoSawEnough,
  },
  ...["qemu", "guardian", "link"].map((kill) => ({
    name: kill,
    words: [node, "src/lab/main.ts", "demo", ...demo(kill)],
    figures: demoFigures,
    sawEnough: demoSawEnough,
  })),
  {
    name: "RAM",
    words: [node, "bench/ram-checks.ts", "--checks", "100", "--json", JSON_PLACE],
    figures: (json) => {
      const { checks, checksThatDiffer, pauseP50Ms } = json as Record<string, number>;
      return `${checks! - checksThatDiffer!}/${checks} equal, pause ${pauseP50Ms!.toFixed(1)} ms`;
    },
  },
  {
    name: "switchover",
    words: [node, "src/lab/main.ts", "circle", "--rounds", "1", "--json", JSON_PLACE],
    figures: (json) => {
      const { client, mismatches, rounds } = json as CircleReport;
      const gaps = rounds.map(({ switchoverGapMs }) => switchoverGapMs.toFixed(0)).join(", ");
      return `gap ${gaps} ms, ${mismatches} differences, ${client.lost} lost`;
    },
  },
  // From here on the programs that the tests need are wanted, too.
  {
    name: "set-up for tests",
    words: ["npm", "run", "setup", "--", "test"],
    network: true,
    figures: () => "",
  },
  { name: "disks", words: testsOf("disk-oracle", "disk-resync"), figures: count },
  { name: "output hold", words: testsOf("output-commit", "output-hold"), figures: count },
  { name: "test failover", words: testsOf("test-failover"), figures: count },
  { name: "guests of today", words: testsOf("guest-devices", "machine-fit", "guest-deeds"), figures: count },
  { name: "tests", words: ["npm", "test"], whenNamed: true, figures: whole },
];
