/** Before a protection: what an earlier one has left in QEMU, if anything, is taken out first. */
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import { sweep } from "../../hypervisor/qemu/sweep.ts";
import type { PrimaryConfig } from "../config/config.ts";
import type { Context } from "../context.ts";
import { exportSocket, SNAPSHOT } from "../disks/primary-disks.ts";

export async function sweepUp(qemu: QemuProcess, { config, log }: Context<PrimaryConfig>): Promise<void> {
  const places = { exportSocket: exportSocket(config.runDirectory), snapshot: SNAPSHOT };
  const { found } = await sweep(qemu, places);
  if (found.length > 0) log.warn(`an earlier protection had left something in QEMU: ${found.join(", ")}`);
}
