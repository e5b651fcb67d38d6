/**
 * Kernel and initrd of the VM on this host. QEMU has read them when it was started, so a VM that runs, or is
 * taken over, does not need them. This host does, to be the backup or to start the VM: while one of them is
 * gone, by an upgrade for example, an alarm stands and protection is refused.
 */
import { accessSync, constants } from "node:fs";
import type { VmSpec } from "../../hypervisor/vm-spec.ts";
import { OrderRefused } from "../control/refusal.ts";
import { Alarm, type Told } from "../watch/alarm.ts";

export class BootFiles {
  private readonly boot: VmSpec["boot"];
  private readonly alarm: Alarm;

  constructor(told: Told, { boot }: Pick<VmSpec, "boot">) {
    this.boot = boot;
    this.alarm = new Alarm(told, "boot-files");
  }

  /** Raises the alarm, or lowers it. @returns what is missing, in a sentence */
  look(): string | undefined {
    const why = missing(this.boot);
    if (why === undefined) this.alarm.lower("the VM's kernel and initrd are there again");
    else this.alarm.raise(`${why}. The VM runs on; it cannot be protected before the file is back`);
    return why;
  }

  /** @throws OrderRefused */
  refuseMissing(): void {
    const why = this.look();
    if (why === undefined) return;
    const todo = "Put the file back that both hosts have, or name another one on both and start the VM anew";
    throw new OrderRefused("boot-files", `${why}: this host could not become the backup. ${todo}`);
  }
}

function missing(boot: VmSpec["boot"]): string | undefined {
  if (boot.kind === "firmware") return undefined;
  for (const field of ["kernel", "initrd"] as const)
    try {
      accessSync(boot[field], constants.R_OK);
    } catch (error) {
      return `vm.boot.${field} cannot be read (${(error as Error).message})`;
    }
  return undefined;
}
