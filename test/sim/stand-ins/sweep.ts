/** In place of `src/hypervisor/qemu/sweep.ts`: what a protection has left in QEMU is taken out. */
import { theWorld } from "../world/present.ts";
import type { SimQemu } from "../world/qemu.ts";

export async function sweep(qemu: SimQemu): Promise<{ found: readonly string[] }> {
  await qemu.qmp.execute("qom-list");
  const found = qemu.leftovers;
  if (found.length === 0) return { found };
  theWorld().count("protections that had left something in QEMU");
  await qemu.command(() => {
    qemu.chain = undefined;
    qemu.mirror = undefined;
  });
  return { found };
}
