/** Many runs, on several threads. */
import { Worker } from "node:worker_threads";
import { BUGS } from "./bugs.ts";
import type { Played } from "./play.ts";
import type { Result, Retelling, Task, Telling } from "./player.ts";
import type { Outcome } from "./scenario.ts";
import type { Patch } from "./stand-ins.ts";

/** Seeds that a thread plays before it is heard of. */
const CHUNK = 20;

/** A thread that plays. Its planted bugs stay with it. */
export class Player {
  private readonly worker: Worker;

  constructor(patches: readonly Patch[] = []) {
    this.worker = new Worker(new URL("./player.ts", import.meta.url), { workerData: { patches } });
  }

  play(task: Task): Promise<Result> {
    return this.ask<Result>(task);
  }

  tell(telling: Telling): Promise<Outcome> {
    return this.ask<Outcome>(telling);
  }

  retell(seed: number): Promise<Played> {
    return this.ask<Played>({ seed });
  }

  private ask<T>(question: Task | Telling | Retelling): Promise<T> {
    const { promise, reject, resolve } = Promise.withResolvers<T>();
    this.worker.once("error", reject);
    this.worker.once("message", (answer: T) => {
      this.worker.off("error", reject);
      resolve(answer);
    });
    this.worker.postMessage(question);
    return promise;
  }

  async end(): Promise<void> {
    await this.worker.terminate();
  }
}

export interface Many {
  readonly first: number;
  readonly runs: number;
  readonly threads: number;
  readonly hours?: number;
  /** Called after each chunk with all there is so far. */
  readonly progress: (soFar: Result) => void;
}

export async function playMany({ first, hours, progress, runs, threads }: Many): Promise<Result> {
  let next = first;
  const end = first + runs;
  let sum: Result = { violations: [], runs: 0, simulatedMs: 0, seen: {} };
  const chunk = hours === undefined ? CHUNK : 1;
  await Promise.all(
    Array.from({ length: Math.min(threads, Math.ceil(runs / chunk)) }, async () => {
      const player = new Player();
      try {
        while (next < end) {
          const from = next;
          next = Math.min(end, from + chunk);
          const more = await player.play({ from, to: next, ...(hours === undefined ? {} : { hours }) });
          sum = added(sum, more);
          progress(sum);
        }
      } finally {
        await player.end();
      }
    }),
  );
  return sum;
}

function added(a: Result, b: Result): Result {
  const seen = { ...a.seen };
  for (const [what, count] of Object.entries(b.seen)) seen[what] = (seen[what] ?? 0) + count;
  return {
    violations: [...a.violations, ...b.violations],
    runs: a.runs + b.runs,
    simulatedMs: a.simulatedMs + b.simulatedMs,
    seen,
  };
}

export interface Hunt {
  readonly bug: string;
  /** Undefined: it was not found. */
  readonly found: { readonly seed: number; readonly text: string } | undefined;
  readonly runs: number;
  readonly ms: number;
}

/**
 * Plays with one bug planted until it is found, `most` runs at most.
 * @param focused only what can show the bug goes wrong (see bugs.ts), which takes fewer runs
 */
async function hunt(bug: string, { focused, most }: { most: number; focused: boolean }): Promise<Hunt> {
  const planted = BUGS[bug];
  if (planted === undefined)
    throw new Error(`no bug is called "${bug}"; there are:\n${Object.keys(BUGS).join("\n")}`);
  const began = performance.now();
  const player = new Player(planted.patches);
  const sound = new Player();
  try {
    const focus = focused ? planted.focus : {};
    let runs = 0;
    while (runs < most) {
      const more = await player.play({ from: 1 + runs, to: 1 + most, untilFound: true, focus });
      runs += more.runs;
      const found = more.violations[0];
      if (found === undefined) break;
      // It is the bug that was found only if nothing is wrong without it.
      const without = await sound.play({ from: found.seed, to: found.seed + 1, focus });
      if (without.violations.length === 0) return { bug, runs, found, ms: performance.now() - began };
    }
    return { bug, runs, found: undefined, ms: performance.now() - began };
  } finally {
    await player.end();
    await sound.end();
  }
}

/** One after the other on each thread. */
export async function huntAll(
  bugs: readonly string[],
  options: {
    readonly most: number;
    readonly focused: boolean;
    readonly threads: number;
    readonly told: (hunt: Hunt) => void;
  },
): Promise<Hunt[]> {
  const left = [...bugs];
  const hunts: Hunt[] = [];
  await Promise.all(
    Array.from({ length: options.threads }, async () => {
      for (let bug = left.shift(); bug !== undefined; bug = left.shift()) {
        const one = await hunt(bug, options);
        hunts.push(one);
        options.told(one);
      }
    }),
  );
  return hunts;
}
