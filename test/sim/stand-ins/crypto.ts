/** In place of `node:crypto`, where production code draws a name. */
import { theWorld } from "../world/present.ts";

export function randomUUID(): string {
  return `00000000-0000-4000-8000-${theWorld().nextNumber().toString(16).padStart(12, "0")}`;
}
