/**
 * Where claims are kept: what every kind of witness must be able to do, one try at a time. `Witness` makes an
 * arbiter of it.
 */
import type { Claim } from "../core/arbiter.ts";
import type { Generation } from "../core/words.ts";

export interface Register {
  /** For logs. */
  readonly name: string;
  /**
   * Writes `claim` unless there is one of this VM for the same generation or a later one, as one atomic step.
   * Resolves with the newest claim that there is then, once it is on stable storage. Rejects when that is not
   * known: the claim may have been written, or be yet.
   */
  claim(vmId: string, claim: Claim, signal: AbortSignal): Promise<Claim>;
  /**
   * The newest claim of a VM, on stable storage; never one that is older than what anybody was told before.
   */
  newest(vmId: string, signal: AbortSignal): Promise<Claim | undefined>;
  /**
   * Resolves if a claim of this VM could be written now; rejects with what is in the way: no room, no right,
   * a storage that is only read. It leaves nothing behind, however often it is asked. Left out: that cannot
   * be told.
   */
  check?(vmId: string, signal: AbortSignal): Promise<void>;
  close(): void;
}

/** Digits that every generation fits into, so that names sort as the numbers do. */
const GENERATION_DIGITS = 16;

/** Generation 7 as it stands in keys and file names: `0000000000000007`. */
export function generationText(generation: Generation): string {
  return String(generation).padStart(GENERATION_DIGITS, "0");
}

/** The number again; undefined if the text is none of ours. */
export function generationOf(text: string): Generation | undefined {
  if (text.length !== GENERATION_DIGITS || !/^\d+$/.test(text)) return undefined;
  const generation = Number(text);
  return isGeneration(generation) ? generation : undefined;
}

/** A UUID in lower case: it goes into keys and file names, and both hosts must mean the same one. */
export function isVmId(value: unknown): value is string {
  return typeof value === "string" && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value);
}

/**
 * The greatest that the replication link can name (docs/specs/replication.md). No VM fails over so often: who
 * asks for it is wrong, or means harm.
 */
export const MAX_GENERATION: Generation = 2 ** 32 - 1;

export function isGeneration(value: unknown): value is Generation {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** As long as a host's name in DNS may be, and printable. */
export function isHost(value: unknown): value is string {
  return typeof value === "string" && /^[\x21-\x7e]{1,253}$/.test(value);
}

/** As `Date.toISOString` gives it. */
function isTime(value: unknown): value is string {
  return typeof value === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(value);
}

/** @throws TypeError naming `source` if the value is not a claim */
export function asClaim(value: unknown, source: string): Claim {
  const { at, generation, host } = (value ?? {}) as Record<string, unknown>;
  if (isGeneration(generation) && isHost(host)) return { generation, host, ...(isTime(at) ? { at } : {}) };
  throw new TypeError(`${source} holds something that is not a claim; no other program may write there`);
}
