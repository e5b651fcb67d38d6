/**
 * `start-here`: somebody who has looked says that the VM runs nowhere, and has it started from the disks of
 * this host. For what the rules of starting leave to people: the host that was given the VM failed before it
 * ran it, or the host that ran it last is lost for good.
 */

import type { Claim } from "../../core/arbiter.ts";
import type { BackupState } from "../../core/backup.ts";
import { recordOf } from "../../core/start-up.ts";
import type { Generation } from "../../core/words.ts";
import type { BackupConfig } from "../config/config.ts";
import type { Context } from "../context.ts";
import type { ArgumentsOf } from "../control/orders.ts";
import { OrderRefused } from "../control/refusal.ts";

/** So long the witness may take. */
const GRACE_MS = 10_000;

export interface StartHereParts {
  readonly context: Context<BackupConfig>;
  readonly state: () => BackupState;
  /** No primary is let in any more: one that came now would soon find that it has lost the VM. */
  readonly shutOut: () => void;
  /** This backup ends, and its host starts the VM as that generation. */
  readonly start: (generation: Generation) => void;
  /** This backup ends, and its host becomes one again. */
  readonly anew: () => void;
}

/** Resolves when the VM is this host's; it boots then. @throws OrderRefused, and nothing has changed */
export async function startHere(
  parts: StartHereParts,
  args: ArgumentsOf<"start-here">,
): Promise<{ generation: Generation }> {
  refuse(parts, args);
  const { anew, context, shutOut, start, state } = parts;
  const { config, log, record, witness } = context;
  const signal = AbortSignal.timeout(GRACE_MS);
  const notStarted = ({ message }: Error) =>
    new OrderRefused("failed", `VM ${config.vm.name} is not started here: ${message}`);
  const newest = await witness.latest(signal).catch((error: Error) => {
    throw notStarted(error);
  });
  // A primary may have come meanwhile.
  refuse(parts, args);
  refuseOlder(context, newest, args);
  shutOut();
  try {
    log.warn(`somebody says that VM ${config.vm.name} runs nowhere, and has it started here`);
    const before = Math.max(newest?.generation ?? 0, record.state?.generation ?? 1, state().generation);
    const { generation, granted } = await witness.ask(before, signal);
    if (!granted) throw new Error(`generation ${generation} was given to another host in this very moment`);
    start(generation);
    return { generation };
  } catch (error) {
    anew();
    throw notStarted(error as Error);
  }
}

function refuse({ context, state }: StartHereParts, args: ArgumentsOf<"start-here">): void {
  const { config, record } = context;
  const { evenFromCopy, runsNowhereElse } = args;
  const { phase } = state();
  if (phase !== "waiting")
    throw new OrderRefused(
      "wrong-state",
      `this backup is ${phase}: only one that waits for a primary can start the VM`,
    );
  if (runsNowhereElse !== true)
    throw new OrderRefused(
      "not-confirmed",
      `this boots VM ${config.vm.name} from the disks of this host. If it still runs on another host, that makes two copies. Look there; if it does not run, say "runsNowhereElse": true`,
    );
  if (haveNoDisks(context)) return;
  const images = recordOf(record.state)?.images;
  if (images === "syncing")
    throw new OrderRefused(
      "half-copy",
      "the images here are a copy that was never finished: nothing can be started from them. Start the VM on the other host",
    );
  if (images !== "owner" && evenFromCopy !== true)
    throw new OrderRefused(
      "not-confirmed",
      `the images here are ${images === undefined ? "not known to this host" : "a copy of the other host's"}: they may lack what the VM did last, and be in the midst of a change, as after a power failure without a journal. Start the VM on the host that ran it last; if that is lost for good, say "evenFromCopy": true`,
    );
}

/** A host that was given the VM after this one may have run it: then its disks are the newer ones. */
function refuseOlder(
  context: StartHereParts["context"],
  newest: Claim | undefined,
  { evenOlderDisks }: ArgumentsOf<"start-here">,
): void {
  if (newest === undefined || evenOlderDisks === true || haveNoDisks(context)) return;
  const { config, record } = context;
  const own = recordOf(record.state)?.generation;
  if (newest.host === config.host || newest.generation <= (own ?? 0)) return;
  const here = own === undefined ? "of no known generation" : `of generation ${own}`;
  throw new OrderRefused(
    "not-confirmed",
    `${newest.host} was given VM ${config.vm.name} as generation ${newest.generation}, ${age(newest, Date.now())}. The disks here are ${here}: they lack what the VM has done there since, and when that host returns, its disks are overwritten with them. Start the VM there; if that host is lost for good, say "evenOlderDisks": true`,
  );
}

function haveNoDisks({ config }: StartHereParts["context"]): boolean {
  return config.vm.disks.every(({ storage }) => storage === "shared");
}

/** How long ago that host was given the VM, by the clocks of two hosts. */
export function age({ at }: Claim, nowMs: number): string {
  if (at === undefined) return "at a time that the witness does not know";
  const seconds = (nowMs - Date.parse(at)) / 1000;
  const [unit, length] = UNITS.find(([, one]) => seconds >= 2 * one) ?? ["seconds", 1];
  return `${Math.max(0, Math.floor(seconds / length))} ${unit} ago (${at})`;
}

const UNITS: readonly (readonly [string, number])[] = [
  ["days", 86_400],
  ["hours", 3_600],
  ["minutes", 60],
];
