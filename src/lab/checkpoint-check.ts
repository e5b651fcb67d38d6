/**
 * Invariant I7, looked at from outside: with the VM held at a checkpoint, both hosts have the same RAM and
 * the same disks.
 */
import { type DiskCheck, differingOffsets } from "./disk-check.ts";
import type { LabDisks } from "./disks.ts";
import type { GuardianProcess } from "./guardian-process.ts";
import { RamComparison } from "./ram-check.ts";

/** The guardian where the VM runs, and the other one. */
export interface Pair {
  readonly primary: GuardianProcess;
  readonly backup: GuardianProcess;
}

export interface RamCheck {
  readonly epoch: number;
  /** Numbers of the pages that differ. */
  readonly differing: readonly number[];
  /** Where the disks differ; empty if they were not looked at. */
  readonly disks: readonly DiskCheck[];
}

export class CheckpointChecks {
  private readonly images: LabDisks;
  private readonly firstRamFile: string;
  private mapped: { readonly files: string; readonly ram: RamComparison } | undefined;

  /** @param firstRamFile RAM of a VM that was booted, and did not come over from another host */
  constructor(images: LabDisks, firstRamFile: string) {
    this.images = images;
    this.firstRamFile = firstRamFile;
  }

  /** Holds the VM at its next checkpoint, or the first from `atEpoch` on, and compares; RAM always. */
  async check({ primary, backup }: Pair, atEpoch: number, disks: boolean): Promise<RamCheck> {
    const ram = await this.map({ primary, backup });
    const { epoch } = await primary.control.order("hold", { atEpoch });
    try {
      await committed(backup, epoch);
      const check = {
        epoch,
        differing: ram.differingPages(),
        disks: disks ? await this.compareDisks(backup) : [],
      };
      await stillHeld(primary, epoch);
      return check;
    } finally {
      await primary.control.order("proceed").catch(() => {});
    }
  }

  close(): void {
    this.mapped?.ram.close();
    this.mapped = undefined;
  }

  /** Before the VM is held. Which files there are changes with the roles, and with a new guardian. */
  private async map({ primary, backup }: Pair): Promise<RamComparison> {
    const ours = await primary.control.primaryStatus();
    const theirs = await backup.control.backupStatus();
    const ramFile = ours.ramImage ?? this.firstRamFile;
    const files = `${ramFile} ${theirs.ramImage} ${theirs.qemuPid}`;
    if (this.mapped?.files !== files) {
      this.close();
      this.mapped = { files, ram: new RamComparison(ramFile, theirs.ramImage) };
    }
    return this.mapped.ram;
  }

  private async compareDisks(backup: GuardianProcess): Promise<DiskCheck[]> {
    await backup.control.order("flush-disks");
    const [a, b] = [this.images.spec("a"), this.images.spec("b")];
    const checks: DiskCheck[] = [];
    for (const [disk, { format, image, storage }] of a.entries())
      if (storage === "replicated")
        checks.push({ disk, offsets: await differingOffsets(image, b[disk]!.image, format) });
    return checks;
  }
}

/** What was seen counts only if nothing changed meanwhile: a protection that is lost lets the VM run on. */
async function stillHeld(primary: GuardianProcess, epoch: number): Promise<void> {
  const { core, phase } = await primary.control.primaryStatus();
  if (phase === "protected" && core.capture === "held" && core.running === epoch + 1) return;
  throw new Error(`the VM was not held at checkpoint ${epoch} throughout: it is ${phase}`);
}

async function committed(backup: GuardianProcess, epoch: number): Promise<void> {
  for (;;) {
    const status = await backup.control.backupStatus();
    if (status.committed === epoch) return;
    if (status.committed === undefined || status.committed > epoch)
      throw new Error(`the backup is at ${status.committed}, the held VM at ${epoch}`);
  }
}
