/** A lab for one test: protected, with a client that counts; gone afterwards, however the test ends. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { ClientProcess } from "../../src/lab/client-process.ts";
import type { ClientSummary } from "../../src/lab/client-report.ts";
import type { GuardianProcess } from "../../src/lab/guardian-process.ts";
import { Lab, type LabOptions } from "../../src/lab/lab.ts";

/** What the client had to wait for at most before we call it stuck. */
export const GRACE_MS = 30_000;

/**
 * Unless it is what a test is about: a machine that is busy for a moment shall not look like a host that has
 * failed.
 */
const DETECTION_MS = 500;

/** Makes a lab that is destroyed with the test; when that failed, its guardians' logs are printed. */
export async function makeLab(t: TestContext, options: LabOptions): Promise<Lab> {
  const lab = await Lab.create({ detectionMs: DETECTION_MS, ...options });
  t.after(async () => {
    // In Node since 21.7, but not in its type declarations.
    if (!(t as TestContext & { readonly passed: boolean }).passed)
      for (const host of ["a", "b"])
        t.diagnostic(await readFile(join(lab.directory, host, "guardian.log"), "utf8").catch(() => ""));
    await lab.destroy();
  });
  return lab;
}

/** The same, with a booted guest, a client in full swing, and protection on. */
export async function protectedLab(
  t: TestContext,
  options: LabOptions & { readonly host?: string },
): Promise<{ lab: Lab; client: ClientProcess }> {
  const lab = await makeLab(t, options);
  await lab.start();
  const client = lab.client(options.host);
  await client.answers(20, GRACE_MS);
  await lab.protect();
  await client.answers(20, GRACE_MS);
  return { lab, client };
}

/**
 * Ends the client: one connection, nothing lost, nothing taken back (I4). Returns what else it has to say.
 */
export async function assertUnharmed(client: ClientProcess): Promise<ClientSummary> {
  const summary = await client.finish();
  const { connections, resets, lost, wentBack, repeated } = summary;
  assert.deepEqual(
    { connections, resets, lost, wentBack, repeated },
    { connections: 1, resets: 0, lost: 0, wentBack: 0, repeated: 0 },
  );
  return summary;
}

/** I7: the backup's image equals the primary's RAM at a checkpoint. */
export async function assertRamEqual(lab: Lab, times = 1): Promise<void> {
  for (let time = 0; time < times; time++) {
    const { epoch, differing } = await lab.ramCheck();
    assert.deepEqual(differing, [], `pages that differ at checkpoint ${epoch}`);
  }
}

/** Waits until `look` gives true. It is asked again and again, for there is no event to wait for. */
export async function eventually(
  what: string,
  look: () => Promise<boolean> | boolean,
  withinMs = 10_000,
): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!(await look())) {
    if (performance.now() > deadline) assert.fail(`not within ${withinMs} ms: ${what}`);
    await new Promise((again) => setTimeout(again, 20));
  }
}

export async function phaseOf({ control }: Pick<GuardianProcess, "control">): Promise<string> {
  const status = await control.status();
  return status.role === "starting" ? status.role : status.phase;
}

export async function roleOf({ control }: Pick<GuardianProcess, "control">): Promise<string> {
  return (await control.status()).role;
}
