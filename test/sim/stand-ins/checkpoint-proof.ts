/**
 * In place of `src/guardian/backup/checkpoint-proof.ts`: loading on trial takes a while, and a host that is
 * not fit says so.
 */
import { theWorld } from "../world/present.ts";
import { current } from "../world/time.ts";

export class CheckpointProof {
  /** Ends what is under way, as a QEMU that is killed while it loads does. */
  private end: (() => void) | undefined;

  begin(): void {
    this.drop();
  }

  async prove({ device }: { readonly device: Uint8Array }): Promise<void> {
    const world = theWorld();
    const host = world.hostOf(current());
    const { promise: ended, reject } = Promise.withResolvers<never>();
    this.end = () => reject(new Error("checkpoint 0 does not load here: QEMU ended (SIGKILL)"));
    await Promise.race([ended, current().later(world.random.between(5, 120) + host.loadTakesMs)]);
    const { plugged } = world.snapshotOf(device);
    if (!host.loadFails && plugged === 0) return;
    world.count("trials that failed to load");
    throw new Error("checkpoint 0 does not load here: it is refused");
  }

  drop(): void {
    this.end?.();
    this.end = undefined;
  }
}
