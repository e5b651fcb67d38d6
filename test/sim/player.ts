/** A thread that plays seeds. It is given planted bugs before anything of the production code is loaded. */
import { parentPort, workerData } from "node:worker_threads";
import { install, type Patch } from "./stand-ins.ts";

/** Seeds `from` up to, not with, `to`; up to the first violation only, if `untilFound`. */
export interface Task {
  readonly from: number;
  readonly to: number;
  readonly hours?: number;
  readonly untilFound?: boolean;
}

export interface Result {
  readonly violations: readonly { readonly seed: number; readonly text: string }[];
  readonly runs: number;
  readonly simulatedMs: number;
  readonly cpuMs: number;
  readonly seen: Readonly<Record<string, number>>;
}

install((workerData as { patches: readonly Patch[] }).patches);
const { play } = await import("./play.ts");

parentPort!.on("message", ({ from, hours, to, untilFound = false }: Task) => {
  const violations: { seed: number; text: string }[] = [];
  const seen: Record<string, number> = {};
  const began = process.cpuUsage();
  let simulatedMs = 0;
  let runs = 0;
  for (let seed = from; seed < to; seed++) {
    const played = play({ seed, keepTranscript: 20, ...(hours === undefined ? {} : { hours }) });
    runs++;
    simulatedMs += played.simulatedMs;
    for (const [what, count] of Object.entries(played.seen)) seen[what] = (seen[what] ?? 0) + count;
    if (played.violation === undefined) continue;
    violations.push({ seed, text: played.violation });
    if (untilFound) break;
  }
  const { system, user } = process.cpuUsage(began);
  parentPort!.postMessage({ violations, runs, simulatedMs, seen, cpuMs: (system + user) / 1000 } satisfies Result);
});
