/** How a primary's life ends: what it waits for, and what its host is afterwards. */
import { setTimeout as pause } from "node:timers/promises";
import type { PrimaryState } from "../../core/primary-protocol.ts";
import { inRole, type PrimaryConfig } from "../config/config.ts";
import type { Context, RoleEnd } from "../context.ts";
import type { OwnedDisks } from "../disks/owned-disks.ts";
import type { Log } from "../log.ts";

/** The backup has this long to let us go when the guest has shut itself down. */
const LAST_GOODBYE_MS = 2_000;
/** And at most a quarter of what the new primary lets pass before it first asks for protection. */
const AFTER_HANDOVER_MS = 500;

/**
 * QEMU is gone. What the guest was told to be on its disks is put there, before anybody lets go of the other
 * host's copy, and before anybody is told that the VM has ended: with `durability: replicated` it may be in
 * this host's memory only.
 */
export async function putAway(
  disks: Pick<OwnedDisks, "putAway">,
  { generation, phase }: PrimaryState,
  guestShutDown: boolean,
  log: Pick<Log, "error">,
  link: { close(): void },
): Promise<void> {
  // The other host's images are the newer ones. What was handed over is put away with its note.
  if (phase === "superseded") return;
  // A VM that has died goes on at the backup, which must hear of it before a slow disk has taken all of this
  // (I4).
  if (!guestShutDown) link.close();
  await disks
    .putAway(generation, guestShutDown)
    .catch((error: Error) =>
      log.error(
        `the VM has ended, and what it wrote last may be lost if this host loses power: ${error.message}`,
      ),
    );
}

/** The guest has shut itself down, and the backup is being told: waits until it has let us go. */
export async function lastGoodbye(phase: () => PrimaryState["phase"]): Promise<void> {
  const over = () => ["unprotected", "ending", "superseded", "arbitrating"].includes(phase());
  for (const end = performance.now() + LAST_GOODBYE_MS; !over() && performance.now() < end; ) await pause(10);
}

/**
 * After a handover the other host's guest has just begun to run, and there is much to tidy up here: where
 * they share processors or memory, the guest comes first.
 */
export async function afterYou(
  state: PrimaryState,
  { retryMs }: { readonly retryMs: number },
): Promise<void> {
  if (state.phase === "superseded" && state.planned) await pause(Math.min(AFTER_HANDOVER_MS, retryMs / 4));
}

/** One after the other; what fails is told, and keeps nobody from ending. */
export async function tidyUp(log: Log, steps: readonly (() => Promise<void> | undefined)[]): Promise<void> {
  for (const step of steps)
    try {
      await step();
    } catch (error) {
      log.error(`tidying up after the VM: ${(error as Error).message}`);
    }
}

/** A VM that another host owns is backed up here from now on, if this host may be called. */
export async function whatNext(last: {
  readonly disks: OwnedDisks;
  readonly guestShutDown: boolean;
  readonly context: Context<PrimaryConfig>;
  readonly session: string;
  readonly state: PrimaryState;
  /** Somebody has asked this guardian to end. */
  readonly asked: boolean;
}): Promise<RoleEnd> {
  const { asked, disks, guestShutDown, context, session, state } = last;
  if (state.phase !== "superseded") {
    // The backup has stood down, or was ruled out. QEMU had ended before that could be noted as of a
    // protection that is stopped.
    if (guestShutDown && state.phase === "ending")
      await disks
        .noteEnded()
        .catch((error: Error) =>
          context.log.warn(`the next start of the VM will take longer: ${error.message}`),
        );
    return { kind: "exit", status: guestShutDown || asked ? 0 : 1 };
  }
  // Should it not be noted, the next resync compares all of it.
  if (state.planned)
    await disks
      .giveAway(session)
      .catch((error: Error) => context.log.error(`noting that the VM was handed over: ${error.message}`));
  if (asked || inRole("backup", context.config) === undefined) return { kind: "exit", status: 0 };
  return { kind: "backup", generation: state.generation };
}
