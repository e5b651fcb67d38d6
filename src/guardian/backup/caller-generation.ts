/**
 * Whether the generation that a caller names can be one. Whoever says a great number must not be able to make
 * the real primary an old one for ever: a generation that is greater than this host's is one that the witness
 * knows.
 */
import type { Refuse } from "../../codec/replication.ts";
import type { Generation } from "../../core/words.ts";
import { MAX_GENERATION } from "../../witness/register.ts";
import type { Context } from "../context.ts";

/** The caller gives up soon after. */
const GRACE_MS = 2_000;
/** Where nobody keeps claims: so many changes of owner at the most can a host have missed. */
const MOST_MISSED = 64;

/** Resolves with the reason for which it is refused; undefined if it is right. Nothing is changed. */
export async function refuseGeneration(
  generation: Generation,
  own: Generation,
  { config, witness }: Pick<Context, "config" | "witness">,
): Promise<Refuse | undefined> {
  if (generation < own)
    return { code: "stale-generation", message: `generation ${generation} is over, this is ${own}` };
  if (generation >= MAX_GENERATION)
    return {
      code: "generation-limit",
      message: `generation ${generation} is the last there can be, and leaves none for a failover`,
    };
  if (generation === own) return undefined;
  if (config.witness.kind === "none")
    return generation - own <= MOST_MISSED
      ? undefined
      : {
          code: "unknown-generation",
          message: `generation ${generation} is more than ${MOST_MISSED} beyond ${own}, the one known here`,
        };
  try {
    const newest = await witness.latest(AbortSignal.timeout(GRACE_MS));
    if (newest !== undefined && generation <= newest.generation) return undefined;
    const known = newest === undefined ? "none" : `${newest.generation} at most`;
    return {
      code: "unknown-generation",
      message: `generation ${generation} was given to nobody: the witness knows ${known}`,
    };
  } catch {
    return {
      code: "unknown-generation",
      message: `whether generation ${generation} was given to anybody cannot be known before ${witness.name} answers`,
    };
  }
}
