/**
 * In place of `src/hypervisor/qemu/standby.ts`: a standby is given memory and device state, and runs when it
 * is told to.
 */
import { theWorld } from "../world/present.ts";
import type { SimQmp } from "../world/qemu.ts";
import { current } from "../world/time.ts";

interface Grace {
  readonly mayGiveUp: () => boolean;
}

/** As the real one: src/hypervisor/qemu/standby.ts. */
const LOAD_TIMEOUT_MS = 10_000;

export async function prepareStandby(qmp: SimQmp): Promise<void> {
  await qmp.execute("migrate-set-capabilities");
}

export async function loadStandby(
  qmp: SimQmp,
  from: { pages: readonly number[]; device: Uint8Array },
  { mayGiveUp }: Grace,
): Promise<void> {
  const world = theWorld();
  const { qemu } = qmp;
  const host = world.hostOf(current());
  world.step(host.name, "standby-loads");
  const { pages } = from;
  const state = world.snapshotOf(from.device);
  const takesMs = world.random.between(5, 60) + host.loadTakesMs;
  for (let leftMs = takesMs; leftMs > 0; leftMs -= LOAD_TIMEOUT_MS) {
    await current().later(Math.min(leftMs, LOAD_TIMEOUT_MS));
    if (leftMs > LOAD_TIMEOUT_MS && mayGiveUp())
      throw new Error("the standby QEMU did not load its state in time");
  }
  await qmp.execute("migrate-incoming");
  if (host.loadFails || state.plugged > 0) {
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
