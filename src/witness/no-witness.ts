/**
 * The arbiter of a pair that has no witness: it grants every request. A host that has merely lost contact
 * then runs the VM while the other one does too. It must be chosen by name, and says so at the start and each
 * time it is asked.
 */
import type { Claim, Verdict } from "../core/arbiter.ts";
import type { Generation } from "../core/words.ts";
import type { CheckedArbiter } from "./witness.ts";

export class NoWitness implements CheckedArbiter {
  readonly name = "none";
  private readonly warn: (text: string) => void;

  constructor(warn: (text: string) => void) {
    this.warn = warn;
    warn(
      "no witness is configured (witness: { kind: none }): when the two hosts lose each other and both live, both will run the VM, and " +
        "clients and disks will have two truths. Give a VM that matters a witness",
    );
  }

  ask(vmId: string, generation: Generation, host: string): Promise<Verdict> {
    this.warn(
      `${host} may run VM ${vmId} alone (generation ${generation + 1}): no witness is configured, so it is assumed that the other host ` +
        "is dead and not merely out of reach. If it is alive, the VM now runs twice",
    );
    return Promise.resolve({ granted: true, generation: generation + 1 });
  }

  /** It remembers nothing, so it cannot say that a VM has moved on. */
  latest(): Promise<Claim | undefined> {
    return Promise.resolve(undefined);
  }

  check(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {}
}
