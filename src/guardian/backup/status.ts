/** What `status` says of a backup (docs/specs/control.md). */
import type { BackupState } from "../../core/backup.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import type { Context } from "../context.ts";
import { CONTROL_VERSION } from "../control/requests.ts";
import type { BackupStatus } from "../control/status.ts";
import type { HostEnvironment } from "../host-environment.ts";
import type { HeldCheckpoints } from "./held-checkpoints.ts";
import type { BackupLink } from "./link.ts";
import type { StandbyTakeover } from "./standby-takeover.ts";

export interface BackupParts {
  readonly context: Context;
  readonly environment: HostEnvironment;
  readonly qemu: QemuProcess;
  readonly held: HeldCheckpoints;
  readonly link: BackupLink;
  readonly takeover: StandbyTakeover;
  readonly state: BackupState;
}

export function backupStatus(parts: BackupParts): BackupStatus {
  const { environment, held, link, context, qemu, state, takeover } = parts;
  return {
    version: CONTROL_VERSION,
    role: "backup",
    vm: context.config.vm.name,
    accelerator: environment.accelerator,
    qemuVersion: qemu.qmp.version,
    qemuPid: qemu.pid,
    ramImage: held.images.path,
    waitingBytes: held.waitingBytes,
    longestStallMs: context.stalls.longestMs,
    witness: context.witness.status,
    paths: link.paths,
    ...(takeover.times === undefined ? {} : { failover: takeover.times }),
    phase: state.phase,
    generation: state.generation,
    ...("acked" in state ? { acked: state.acked, committed: state.committed } : {}),
    ...("reason" in state ? { reason: state.reason } : {}),
    core: { ...state },
  };
}
