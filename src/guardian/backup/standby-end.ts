/**
 * The standby's process is gone: what stood beside it goes, too. A step that fails keeps none of the others
 * from being taken, nor the guardian from its end.
 */
import type { BackupImages } from "../../memory/backup-images.ts";
import type { StandbyTaps } from "../../net/standby-taps.ts";
import type { BackupDisks } from "../disks/backup-disks.ts";
import type { Log } from "../log.ts";
import type { HeldCheckpoints } from "./held-checkpoints.ts";
import type { BackupLink } from "./link.ts";
import type { TestFailover } from "./test-failover.ts";

/** The standby may be gone before all of it was made. */
export interface BesideStandby {
  readonly test: Pick<TestFailover, "drop"> | undefined;
  readonly link: Pick<BackupLink, "refusalHeard" | "close" | "shut"> | undefined;
  readonly held: Pick<HeldCheckpoints, "forget"> | undefined;
  readonly disks: Pick<BackupDisks, "close"> | undefined;
  readonly images: Pick<BackupImages, "discard">;
  readonly taps: Pick<StandbyTaps, "restore">;
}

/** Never rejects. */
export async function clearAway(
  { disks, held, images, link, taps, test }: BesideStandby,
  log: Pick<Log, "error">,
): Promise<void> {
  const steps: readonly (() => void | Promise<void>)[] = [
    () => test?.drop("the standby is gone"),
    () => link?.refusalHeard(),
    // Without a standby this host must not ask for the VM: the primary is to hear at once that it is alone.
    () => link?.close(),
    () => link?.shut(),
    () => held?.forget(),
    () => disks?.close(),
    () => images.discard(),
    () => taps.restore(),
  ];
  for (const step of steps)
    try {
      await step();
    } catch (error) {
      log.error(`clearing up behind the standby: ${(error as Error).message}`);
    }
}
