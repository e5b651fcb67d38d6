/** What a guardian keeps when its role changes, and how a role ends. */
import type { Generation } from "../core/words.ts";
import type { StateFile } from "../disk/state-file.ts";
import type { QemuProcess } from "../hypervisor/qemu/process.ts";
import type { GuardianConfig } from "./config/config.ts";
import type { ControlSocket } from "./control/socket.ts";
import type { FailoverTimes } from "./control/status.ts";
import type { HostEnvironment } from "./host-environment.ts";
import type { Log } from "./log.ts";
import type { Stalls } from "./watch/stalls.ts";
import type { WitnessWatch } from "./watch/witness-watch.ts";

/** What is there in either role. */
export interface Context<C extends GuardianConfig = GuardianConfig> {
  readonly config: C;
  readonly log: Log;
  readonly witness: WitnessWatch;
  readonly control: ControlSocket;
  readonly stalls: Stalls;
  readonly record: StateFile;
}

/** A VM that runs here already, when the backup becomes the primary. */
export interface TakenOver {
  readonly generation: Generation;
  readonly qemu: QemuProcess;
  readonly environment: HostEnvironment;
  /** The file that holds the VM's RAM. */
  readonly ramFile: string;
  /**
   * The session whose last checkpoint the VM went on from: the dirty bitmaps of its disks count from there.
   */
  readonly session: string | undefined;
  /** The checkpoint from which it went on. */
  readonly epoch: number;
  /** The other host lives and becomes the backup: protect towards it without being asked. */
  readonly planned: boolean;
  readonly failover: FailoverTimes | undefined;
  /** To be called when the VM is gone. */
  readonly cleanUp: () => Promise<void>;
}

export type RoleEnd =
  | { readonly kind: "exit"; readonly status: number }
  | { readonly kind: "primary"; readonly takenOver: TakenOver }
  | { readonly kind: "backup"; readonly generation: Generation }
  /** The VM is booted here as this generation. */
  | { readonly kind: "start"; readonly generation: Generation };
