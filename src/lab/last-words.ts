/** What the guardians said before something went wrong. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Lab } from "./lab.ts";

const LAST_LINES = 25;

/** The ends of both guardians' logs, for people. */
export async function lastWords(lab: Lab): Promise<string> {
  const logs = await Promise.all(
    (["a", "b"] as const).map(async (host) => {
      const text = await readFile(join(lab.directory, host, "guardian.log"), "utf8").catch(() => "");
      return [`guardian of host ${host}:`, ...text.trimEnd().split("\n").slice(-LAST_LINES)].join("\n  ");
    }),
  );
  return logs.join("\n");
}
