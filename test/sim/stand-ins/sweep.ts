/** In place of `src/hypervisor/qemu/sweep.ts`: the stand-ins leave nothing behind. */
import type { SimQemu } from "../world/qemu.ts";

export async function sweep({ qmp }: SimQemu): Promise<{ found: readonly string[] }> {
  await qmp.execute("qom-list");
  return { found: [] };
}
