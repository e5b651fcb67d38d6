/** In place of `src/os/monotonic.ts`. */
import { current } from "../world/time.ts";

export function monotonicMs(): number {
  return current().monotonicMs();
}
