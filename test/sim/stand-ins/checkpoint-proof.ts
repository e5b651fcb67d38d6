/** In place of `src/guardian/checkpoint-proof.ts`: loading on trial takes a while, and a host that is not fit says so. */
import { theWorld } from "../world/present.ts";
import { current } from "../world/time.ts";

export class CheckpointProof {
  begin(): void {}

  async prove(): Promise<void> {
    await current().later(theWorld().random.between(5, 120));
  }

  drop(): void {}
}
