/** Who may go solo. The two hosts of a VM ask the same arbiter; of two that ask for one generation, one is granted it. */
import type { Generation } from "./words.ts";

export interface Verdict {
  readonly granted: boolean;
  /** The generation that holds now: one more than was asked with, if granted; else whatever has moved on. */
  readonly generation: Generation;
}

export interface Arbiter {
  /** For logs: what decides, and what it assumes. */
  readonly name: string;
  /**
   * May `host` run the VM `vmId` alone, given that the pair was at `generation`? Settles only with a definite word; an arbiter
   * that cannot be reached keeps trying, because to guess is what I3 forbids.
   */
  ask(vmId: string, generation: Generation, host: string): Promise<Verdict>;
}
