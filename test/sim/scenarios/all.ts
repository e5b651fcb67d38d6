/** Every scenario, by its name. */
import type { Scenario } from "../scenario.ts";
import { FAILURES } from "./failures.ts";
import { KILL_POINTS } from "./kill-points.ts";
import { NASTY } from "./nasty.ts";
import { REAL_HOSTS } from "./real-hosts.ts";
import { SWITCHOVER } from "./switchover.ts";

export const CHAPTERS: Readonly<Record<string, readonly Scenario[]>> = {
  "the table of failures": FAILURES,
  "the six kill points": KILL_POINTS,
  "a switchover, interrupted": SWITCHOVER,
  "the nasty ones": NASTY,
  "what real hosts bring": REAL_HOSTS,
};

export function scenarioNamed(name: string): Scenario {
  const all = Object.values(CHAPTERS).flat();
  const found = all.find((one) => one.name === name);
  if (found === undefined)
    throw new Error(`no scenario is called "${name}"; there are:\n${all.map((one) => one.name).join("\n")}`);
  return found;
}
