/**
 * In place of `src/guardian/host-environment.ts`: the host is as it should be, and QEMU starts in the made-up
 * world.
 */
import { theWorld } from "../world/present.ts";
import { SimQemu } from "../world/qemu.ts";
import { BLOCK_BYTES, BLOCKS } from "../world/storage.ts";
import { current } from "../world/time.ts";

export class PreflightFailed extends Error {}

export function checkFindings(): void {}

export async function prepareEnvironment() {
  await current().later(5);
  filesAreThere();
  return { accelerator: "tcg", preload: undefined, images: [{ virtualBytes: BLOCKS * BLOCK_BYTES }] };
}

export async function startQemu(
  _config: unknown,
  _ground: unknown,
  { role }: { role: "primary" | "standby" },
): Promise<SimQemu> {
  const world = theWorld();
  const process = current();
  const host = world.hostOf(process);
  await process.later(world.random.between(30, 200));
  const qemu = new SimQemu(world, host, process, role === "standby");
  host.qemu = qemu;
  if (role === "primary") qemu.boot();
  return qemu;
}

/** @throws as production code does where a kernel's file is gone */
function filesAreThere(): void {
  if (theWorld().hostOf(current()).filesGone)
    throw Object.assign(new Error("ENOENT: no such file or directory, stat '/boot/vmlinuz'"), {
      code: "ENOENT",
    });
}

export async function machineOf(): Promise<Record<string, string>> {
  filesAreThere();
  return { machine: "pc" };
}
