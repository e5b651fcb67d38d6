/**
 * Who may go solo. The two hosts of a VM ask the same arbiter; of two that ask for one generation, one is
 * granted it.
 */
import type { Generation } from "./words.ts";

export interface Verdict {
  readonly granted: boolean;
  /** The generation that holds now: one more than was asked with, if granted; else whatever has moved on. */
  readonly generation: Generation;
}

/** A generation of a VM is one host's. Once written, a claim is never changed and never removed. */
export interface Claim {
  readonly generation: Generation;
  readonly host: string;
  /**
   * When it was asked for, by that host's clock: ISO 8601, UTC. For people; nothing is decided by it, and old
   * claims have none.
   */
  readonly at?: string;
}

export interface Arbiter {
  /** For logs: what decides, and what it assumes. */
  readonly name: string;
  /**
   * May `host` run the VM `vmId` alone, given that the pair was at `generation`? Settles only with a definite
   * word; an arbiter that cannot be reached keeps trying, because to guess is what I3 forbids. To ask again
   * gives the same answer, until somebody has asked with a later generation. `host` must be one host's name
   * and stay it: who asks under another's name is granted what is the other's.
   *
   * @throws what `signal` was aborted with, or an error once it is closed. Neither is a word: the claim may
   * have been written, or be yet.
   */
  ask(vmId: string, generation: Generation, host: string, signal?: AbortSignal): Promise<Verdict>;
  /**
   * The newest claim there is, for a host that must find out whether the VM has moved on without it. Keeps
   * trying, like `ask`.
   */
  latest(vmId: string, signal?: AbortSignal): Promise<Claim | undefined>;
  /** Whoever still asks is rejected. */
  close(): void;
}
