/** A guardian's life: it finds out what it is, and goes from role to role until one ends it. */
import type { Generation } from "../core/words.ts";
import { BackupGuardian } from "./backup/backup.ts";
import { type BackupConfig, type GuardianConfig, inRole, type PrimaryConfig } from "./config/config.ts";
import type { Context, RoleEnd } from "./context.ts";
import type { Attended, HostSignals } from "./host-signals.ts";
import { persist } from "./persist.ts";
import { adoptVm, startVm } from "./primary/beginning.ts";
import { decideRole, withoutRole } from "./starting.ts";
import { sweepLeftovers } from "./sweep-leftovers.ts";
import { Alarm } from "./watch/alarm.ts";

interface Role extends Attended {
  readonly done: Promise<RoleEnd>;
}

interface Serving {
  readonly role: Role;
  readonly config: GuardianConfig;
}

/**
 * One role after the other, until one ends with an exit status. @param signals left out where nobody sends
 * any
 */
export async function serve(
  context: Context,
  signals?: Pick<HostSignals, "attend" | "ending">,
): Promise<number> {
  let serving = await begin(context, signals?.ending);
  for (;;) {
    if (serving === undefined) return 0;
    signals?.attend(serving.role);
    const end = await serving.role.done;
    if (end.kind === "exit") return end.status;
    // Only a VM that runs here already keeps a guardian that is asked to end.
    if (end.kind !== "primary" && signals?.ending.aborted === true) return 0;
    const config = inRole(end.kind === "start" ? "primary" : end.kind, serving.config);
    if (config === undefined) return 0;
    context.log.info(`this guardian goes on as the ${config.role}`);
    serving = await change({ ...context, config }, end, signals?.ending);
  }
}

/** The first role. Undefined if this guardian was asked to end before it had one. */
async function begin(context: Context, ending: AbortSignal | undefined): Promise<Serving | undefined> {
  // Whoever asks hears what it waits for, and a socket that cannot be had is found out before there is a VM.
  const { config: file, control } = context;
  await control.take(withoutRole(context, () => "looking"));
  const decided = await Promise.race([decideRole(context), aborted(ending)]);
  if (decided === undefined) return undefined;
  const config = inRole(decided.as, file);
  if (config === undefined)
    throw new Error(
      `this host is to be the ${decided.as}, because ${decided.why}; but its configuration has no replication.listen`,
    );
  sweepLeftovers(file, context.log);
  if (config.role === "backup")
    return { role: await BackupGuardian.start({ ...context, config }, decided.generation), config };
  return { role: await startVm({ ...context, config }, decided.generation), config };
}

async function change(
  context: Context,
  before: Exclude<RoleEnd, { kind: "exit" }>,
  ending: AbortSignal | undefined,
): Promise<Serving | undefined> {
  const { config } = context;
  if (config.role === "backup") {
    const { generation } = before as RoleEnd & { kind: "backup" };
    return await backupInTime({ ...context, config }, generation, ending);
  }
  const primary: Context<PrimaryConfig> = { ...context, config };
  const role =
    before.kind === "primary"
      ? await adoptVm(primary, before.takenOver)
      : await startVm(primary, before.generation);
  return { role, config };
}

/**
 * A host that has lost the VM, or whose standby is spent, becomes a backup as soon as it can. What is in the
 * way, an address that is gone or a file, may be mended while this guardian waits, and the VM has no other
 * backup.
 */
async function backupInTime(
  context: Context<BackupConfig>,
  generation: Generation,
  ending: AbortSignal | undefined,
): Promise<Serving | undefined> {
  const { control, log } = context;
  let role: Role | undefined;
  let trying: Promise<void> | undefined;
  await control.take(withoutRole(context, () => "becoming a backup"));
  const started = persist({
    what: "becoming a backup",
    attempt: () => {
      trying = BackupGuardian.start(context, generation).then((started) => {
        role = started;
      });
      return trying;
    },
    wanted: () => ending?.aborted !== true,
    alarm: new Alarm({ control, log }, "guardian"),
  });
  await Promise.race([started, aborted(ending)]);
  // A try that is under way comes to its end, so that nothing of it is left.
  await (trying as Promise<void> | undefined)?.catch(() => {});
  return role === undefined ? undefined : { role, config: context.config };
}

/** Resolves when the signal comes; never where there is none. */
function aborted(signal: AbortSignal | undefined): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) resolve(undefined);
    signal?.addEventListener("abort", () => resolve(undefined), { once: true });
  });
}
