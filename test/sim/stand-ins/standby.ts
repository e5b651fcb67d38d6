/** In place of `src/hypervisor/qemu/standby.ts`: a standby is given memory and device state, and runs when it is told to. */
import { theWorld } from "../world/present.ts";
import type { SimQmp } from "../world/qemu.ts";
import { current } from "../world/time.ts";

export async function prepareStandby(qmp: SimQmp): Promise<void> {
  await qmp.execute("migrate-set-capabilities");
}

export async function loadStandby(
  qmp: SimQmp,
  from: { pages: readonly number[]; device: Uint8Array },
): Promise<void> {
  const world = theWorld();
  const { qemu } = qmp;
  const host = world.hostOf(current());
  world.step(host.name, "standby-loads");
  const { pages } = from;
  const state = world.snapshotOf(from.device);
  await current().later(world.random.between(5, 60) + host.loadTakesMs);
  await qmp.execute("migrate-incoming");
  if (host.loadFails) {
    world.count("standbys that failed to load");
    throw new Error("the standby QEMU refused the state; see its log");
  }
  qemu.load(state, pages);
}

export async function runStandby(qmp: SimQmp): Promise<void> {
  const world = theWorld();
  const { qemu } = qmp;
  await qmp.execute("cont");
  qemu.runLoaded();
  world.step(world.hostOf(current()).name, "standby-runs");
  await current().later(world.random.between(0.1, 2));
  if (!qemu.alive) throw new Error("the standby QEMU died while it loaded the state");
}
