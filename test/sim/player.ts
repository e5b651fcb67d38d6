/** A thread that plays seeds. It is given planted bugs before anything of the production code is loaded. */
import { parentPort, workerData } from "node:worker_threads";
import type { Focus } from "./play.ts";
import type { Outcome } from "./scenario.ts";
import { scenarioNamed } from "./scenarios/all.ts";
import { install, type Patch } from "./stand-ins.ts";

/** Seeds `from` up to, not with, `to`; up to the first violation only, if `untilFound`. */
export interface Task {
  readonly from: number;
  readonly to: number;
  readonly hours?: number;
  readonly untilFound?: boolean;
  readonly focus?: Focus;
}

export interface Result {
  readonly violations: readonly { readonly seed: number; readonly text: string }[];
  readonly runs: number;
  readonly simulatedMs: number;
  readonly seen: Readonly<Record<string, number>>;
}

/** A scenario, played once with each seed from 1 on; up to the first violation. */
export interface Telling {
  readonly scenario: string;
  readonly times: number;
}

/** One seed, with all that happened. */
export interface Retelling {
  readonly seed: number;
}

install((workerData as { patches: readonly Patch[] }).patches);
const { play } = await import("./play.ts");
const { playScenario } = await import("./scenario.ts");

parentPort!.on("message", (asked: Task | Telling | Retelling) => {
  if ("scenario" in asked) parentPort!.postMessage(tell(asked));
  else if ("seed" in asked) parentPort!.postMessage(play({ seed: asked.seed, keepTranscript: 1_000_000 }));
  else parentPort!.postMessage(playSeeds(asked));
});

function tell({ scenario, times }: Telling): Outcome {
  for (let seed = 1; seed <= times; seed++) {
    const outcome = playScenario(scenarioNamed(scenario), seed);
    if (outcome.violation !== undefined) return outcome;
  }
  return { violation: undefined, transcript: [] };
}

function playSeeds({ focus = {}, from, hours, to, untilFound = false }: Task): Result {
  const violations: { seed: number; text: string }[] = [];
  const seen: Record<string, number> = {};
  let simulatedMs = 0;
  let runs = 0;
  for (let seed = from; seed < to; seed++) {
    const played = play({ seed, focus, keepTranscript: 20, ...(hours === undefined ? {} : { hours }) });
    runs++;
    simulatedMs += played.simulatedMs;
    for (const [what, count] of Object.entries(played.seen)) seen[what] = (seen[what] ?? 0) + count;
    if (played.violation === undefined) continue;
    violations.push({ seed, text: played.violation });
    if (untilFound) break;
  }
  return { violations, runs, simulatedMs, seen };
}
