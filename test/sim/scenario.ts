/**
 * A small language for stories of two hosts, played in the made-up world. A story begins protected, with the
 * VM on host A, unless it begins with `begin unprotected`. One line a step; what stands behind `#` is told to
 * the reader alone.
 *
 *   when [A|B] STEP [the 3rd time]: ACTION    waits for somebody to come to a step, and strikes there
 *   ACTION                                    strikes now, see scenario-words.ts
 *   wait 500                                  milliseconds
 *   expect EXPECTATION [within 2000]          at once, if no time is given
 *
 * The steps are in world/faults.ts, STEPS. At the end all is mended, and the VM must be protected again; the
 * judge looks on all the time.
 */
import { ACTIONS, EXPECTATIONS, matching } from "./scenario-words.ts";
import { inWorld, type Stage } from "./stage.ts";
import { Random } from "./world/random.ts";
import type { Nature } from "./world/world.ts";

/** A calm world: what happens in it is what the story says. */
const CALM: Nature = {
  links: [{ latencyMs: 0.3, jitterMs: 0.1, bytesPerMs: 20_000, bufferBytes: 200_000 }],
  witnessMembers: 3,
  datagrams: { loss: 0, duplication: 0, delayMs: 1, longMs: 1, longShare: 0 },
  guestStepMs: 5,
  clientMs: 15,
  hasDisk: true,
  durability: "strict",
  diskShare: 0.4,
  flushEvery: 16,
  logsGrow: false,
  syncMs: 4,
  flushMs: 4,
  holdMs: 0.1,
  startsMs: [20, 40],
  diskMs: 0.5,
  firstPassMs: 60,
  intervalMs: 25,
  maxInFlight: 8,
  stagingMiB: 64,
  detectionMs: 200,
  retryMs: 500,
  hungMs: 2000,
  protectAtStart: true,
  bothPrimary: false,
};

const PROTECTED_WITHIN_MS = 100_000;

export interface Scenario {
  readonly name: string;
  /** What happens, and why it matters. */
  readonly story: string;
  readonly script: string;
}

export interface Outcome {
  readonly violation: string | undefined;
  readonly transcript: readonly string[];
}

/**
 * Plays a scenario once. @param seed of what the story leaves open: when exactly, and how long things take
 */
export function playScenario({ script }: Scenario, seed: number): Outcome {
  const lines = script
    .split("\n")
    .map((line) => line.replace(/#.*/, "").trim())
    .filter((line) => line !== "");
  const beginning = /^begin (.+)$/.exec(lines[0] ?? "")?.[1];
  const unprotected = beginning === "unprotected" || beginning === "with both primary";
  const nature: Nature = {
    ...CALM,
    protectAtStart: !unprotected,
    bothPrimary: beginning === "with both primary",
    hasDisk: beginning !== "without a disk",
    durability: beginning === "with flushes in memory" ? "replicated" : "strict",
  };
  const world = inWorld(new Random(seed), nature, 100_000, (stage) => {
    const { checker } = stage.world;
    const ready = () =>
      checker.last !== undefined && (nature.bothPrimary || stage.world.network.acceptors.has("B0"));
    if (unprotected) stage.until(ready, 20_000, "the VM does not start, or its backup");
    else stage.until(() => stage.isProtected(), 20_000, "the VM is not protected");
    stage.pass(stage.world.random.between(0, 30));
    for (const line of beginning === undefined ? lines : lines.slice(1))
      if (stage.world.violation === undefined) tell(stage, line);
    if (["expect stranded", "end"].includes(lines.at(-1)!)) return;
    stage.calmDown();
    if (stage.stopped || unprotected) stage.protectOnOrder();
    stage.until(() => stage.isProtected(), PROTECTED_WITHIN_MS, "all is mended, and the VM is not protected");
  });
  return { violation: world.violation, transcript: world.transcript };
}

function tell(stage: Stage, line: string): void {
  const { world } = stage;
  if (line === "end") return;
  world.note("story", line);
  const when = /^when (?:(A|B) )?(.+?)(?: the (\d+)(?:st|nd|rd|th) time)?: (.+)$/.exec(line);
  const wait = /^wait (\d+)$/.exec(line);
  const expect = /^expect (.+?)(?: within (\d+))?$/.exec(line);
  if (when !== null) {
    const [, host, step, nth = "1", action] = when;
    const { of, words } = matching(ACTIONS, action!);
    let struck = false;
    world.at(
      step!,
      Number(nth) - 1,
      () => {
        struck = true;
        world.note("story", `${step}: ${action}`);
        of(stage, words);
      },
      host,
    );
    world.waiting.push({ line, isOver: () => struck });
  } else if (wait !== null) stage.pass(Number(wait[1]));
  else if (expect !== null) {
    // What was to be struck has been, or the expectation says nothing.
    const { of, words } = matching(EXPECTATIONS, expect[1]!);
    const holds = () => world.waiting.every(({ isOver }) => isOver()) && of(stage, words);
    const within = Number(expect[2] ?? 0);
    stage.until(holds, within, `not so: ${expect[1]}`);
    for (const { isOver, line: waited } of world.waiting)
      if (!isOver()) world.checker.fail("story", `nobody came to where it strikes: ${waited}`);
  } else {
    const { of, words } = matching(ACTIONS, line);
    of(stage, words);
  }
}
