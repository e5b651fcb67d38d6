/** In place of `src/witness/open-witness.ts`: the production `Witness`, over the made-up one. */
import { Witness } from "../../../src/witness/witness.ts";
import { theWorld } from "../world/present.ts";

export function openWitness(_choice: unknown, notices: ConstructorParameters<typeof Witness>[1]): Witness {
  return new Witness(theWorld().witness.register(), notices);
}
