/** In place of `src/hypervisor/qemu/tcg-aids.ts`. */
import { PAGES } from "../world/guest.ts";

export function ramKiB(): number {
  return PAGES * 4;
}

export function needsLibrary(): boolean {
  return false;
}
