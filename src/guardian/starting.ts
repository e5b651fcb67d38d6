/**
 * Before a guardian takes up a role: which one, by core/start-up, from what this host noted and what the
 * witness knows. A host that failed can so be started again with the file that it always had.
 */
import { setTimeout as pause } from "node:timers/promises";
import {
  askedToStart,
  SET_OUT,
  type Starting,
  type StartUp,
  startUp,
  startUpUnasked,
} from "../core/start-up.ts";
import type { Context } from "./context.ts";
import { checkedOrders } from "./control/orders.ts";
import { CONTROL_VERSION } from "./control/requests.ts";
import type { Order } from "./control/socket.ts";

/** The host runs the VM, or is its backup, as this generation. */
export type Decided = Extract<StartUp, { as: "primary" | "backup" }>;

/**
 * Resolves when it is decided, however long the witness takes. Rejects with a sentence where this host must
 * do nothing.
 */
export async function decideRole(context: Context): Promise<Decided> {
  const { config, log, record } = context;
  const { host, role, timing, vm } = config;
  const starting: Omit<Starting, "newest"> = {
    host,
    role,
    record: record.state,
    witnessed: config.witness.kind !== "none",
    detectionMs: timing.detectionMs,
  };
  const decision = startUpUnasked(starting) ?? (await ask(context, starting));
  if (decision.as === "nothing") throw new Error(`VM ${vm.name} is not started: ${decision.why}`);
  if (decision.as === "ask" || decision.as === "claim")
    throw new Error("internal error: a question is no decision");
  if (decision.as !== role) log.warn(`this host is the ${decision.as} of VM ${vm.name}: ${decision.why}`);
  return decision;
}

async function ask(context: Context, starting: Omit<Starting, "newest">): Promise<StartUp> {
  const { config, control, log, witness } = context;
  const { timing } = config;
  let doing = `asking ${witness.name} who has the VM`;
  await control.take(withoutRole(context, () => doing));
  let decision = await settled(context, starting);
  if (decision.as !== "ask") return decision;
  doing = decision.why;
  log.warn(`${decision.why}; that takes up to ${decision.waitMs} ms`);
  for (const end = performance.now() + decision.waitMs; performance.now() < end; ) {
    await pause(timing.detectionMs);
    decision = await settled(context, starting);
    if (decision.as !== "ask") return decision;
  }
  return askedToStart(await witness.ask(decision.generation));
}

/** What the newest claim makes of it, after this host has claimed what nobody has. */
async function settled({ record, witness }: Context, starting: Omit<Starting, "newest">): Promise<StartUp> {
  for (;;) {
    const now = { ...starting, record: record.state };
    const decision = startUp({ ...now, newest: await witness.latest() });
    if (decision.as !== "claim") return decision;
    // On stable storage first: a host that fails behind its first claim must know that it has had nothing but
    // that.
    if (record.state === undefined) await record.write(SET_OUT);
    const { generation, granted } = await witness.ask(decision.generation);
    if (granted) return { as: "primary", generation, why: decision.why };
  }
}

/** The orders of a guardian that has no role yet. @param doing what it does meanwhile */
export function withoutRole(
  { config, witness }: Pick<Context, "config" | "witness">,
  doing: () => string,
): Record<string, Order> {
  const known = { version: CONTROL_VERSION, role: "starting", vm: config.vm.name } as const;
  return checkedOrders({ status: () => ({ ...known, doing: doing(), witness: witness.status }) });
}
