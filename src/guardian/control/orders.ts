/**
 * The orders that a guardian takes, what each is given and what it answers (docs/specs/control.md); and the
 * check that stands before whoever carries one out.
 */
import { z } from "zod";
import { OrderRefused } from "./refusal.ts";
import type { Caller, Order } from "./socket.ts";
import { status } from "./status.ts";

const nothing = z.strictObject({});
const confirmed = (name: string) => z.boolean(`"${name}" must be true or false`).optional();
const wholeFromZero = (name: string) => {
  const wrong = `"${name}" must be a whole number from 0`;
  return z.int(wrong).min(0, wrong).optional();
};

const slice = z.object({
  /** All that were measured. */
  count: z.int(),
  /** Number of the first one here. */
  from: z.int(),
  samples: z.array(z.number()),
});

const runningClone = z.object({
  state: z.literal("running"),
  checkpoint: z.int(),
  generation: z.int(),
  /** QEMU's word for its state. */
  guest: z.string(),
  pid: z.int(),
  /** Path of its network namespace. */
  network: z.string(),
  qmp: z.string(),
  vnc: z.string(),
  serial: z.string(),
  serialLog: z.string(),
  serialTail: z.string(),
  /** What of the disks was kept because it was changed since. */
  keptBytes: z.number(),
});
export type RunningClone = Readonly<z.infer<typeof runningClone>>;

const clone = z.discriminatedUnion("state", [
  /** `lastEnd`: why the last one is no more. */
  z.object({ state: z.literal("none"), lastEnd: z.string().exactOptional() }),
  z.object({ state: z.literal("starting") }),
  runningClone,
]);
/** Of a test failover's clone. */
export type CloneStatus = Readonly<z.infer<typeof clone>>;

export const orders = {
  status: { arguments: nothing, result: status },
  quit: { arguments: nothing, result: nothing },
  // Of a primary
  protect: { arguments: nothing, result: nothing },
  stop: { arguments: nothing, result: nothing },
  switchover: { arguments: nothing, result: nothing },
  hold: {
    arguments: z.strictObject({ atEpoch: wholeFromZero("atEpoch") }),
    result: z.object({ epoch: z.int() }),
  },
  proceed: { arguments: nothing, result: nothing },
  resume: { arguments: nothing, result: nothing },
  samples: {
    arguments: z.strictObject({ from: wholeFromZero("from") }),
    result: z.object({ pauseMs: slice, dirtyPages: slice, checkpointsPerSecond: z.number() }),
  },
  "reset-statistics": { arguments: nothing, result: nothing },
  // Of a backup
  "test-failover": {
    arguments: z.strictObject({
      action: z.enum(["start", "status", "stop"], '"action" must be "start", "status" or "stop"'),
    }),
    result: clone,
  },
  "start-here": {
    arguments: z.strictObject({
      runsNowhereElse: confirmed("runsNowhereElse"),
      evenFromCopy: confirmed("evenFromCopy"),
      evenOlderDisks: confirmed("evenOlderDisks"),
    }),
    result: z.object({ generation: z.int() }),
  },
  "flush-disks": { arguments: nothing, result: nothing },
} as const;

export type Command = keyof typeof orders;
export type ArgumentsOf<C extends Command> = Readonly<z.infer<(typeof orders)[C]["arguments"]>>;
export type ResultOf<C extends Command> = Readonly<z.infer<(typeof orders)[C]["result"]>>;

/** Where there is nothing to answer, nothing need be returned. */
// biome-ignore lint/suspicious/noConfusingVoidType: it is what such a handler returns
type Answered<C extends Command> = ResultOf<C> extends Record<string, never> ? void : ResultOf<C>;

/** Who carries out which. */
export type Handlers = {
  readonly [C in Command]?: (args: ArgumentsOf<C>, caller: Caller) => Answered<C> | Promise<Answered<C>>;
};

/** As the control socket takes them: each order's arguments are checked before it is carried out. */
export function checkedOrders(handlers: Handlers): Record<string, Order> {
  return Object.fromEntries(
    Object.entries(handlers).map(([command, carryOut]) => [
      command,
      (args, caller) =>
        (carryOut as (args: unknown, caller: Caller) => unknown)(
          checkedArguments(command as Command, args),
          caller,
        ),
    ]),
  );
}

/** @throws OrderRefused that names the argument */
function checkedArguments(command: Command, args: Readonly<Record<string, unknown>>): unknown {
  const schema = orders[command].arguments;
  const { success, data, error } = schema.safeParse(args);
  if (success) return data;
  const [issue] = error.issues;
  if (issue?.code !== "unrecognized_keys") throw new OrderRefused("bad-request", issue!.message);
  const known = Object.keys(schema.shape);
  throw new OrderRefused(
    "bad-request",
    `${command} has no argument "${issue.keys[0]}"; ${known.length === 0 ? "it takes none" : `it takes ${known.join(", ")}`}`,
  );
}
