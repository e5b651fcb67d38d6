/** What `status` says of a backup (docs/specs/control.md). */
import type { BackupState } from "../../core/backup.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import { CONTROL_VERSION } from "../control/requests.ts";
import type { BackupStatus } from "../control/status.ts";
import type { Post } from "../role.ts";
import type { Ground } from "../vm-process.ts";
import type { HeldCheckpoints } from "./held-checkpoints.ts";
import type { BackupLink } from "./link.ts";
import type { StandbyTakeover } from "./standby-takeover.ts";

export interface BackupParts {
  readonly post: Post;
  readonly ground: Ground;
  readonly qemu: QemuProcess;
  readonly held: HeldCheckpoints;
  readonly link: BackupLink;
  readonly takeover: StandbyTakeover;
  readonly state: BackupState;
}

export function backupStatus(parts: BackupParts): BackupStatus {
  const { ground, held, link, post, qemu, state, takeover } = parts;
  return {
    version: CONTROL_VERSION,
    role: "backup",
    vm: post.config.vm.name,
    accelerator: ground.accelerator,
    qemuVersion: qemu.qmp.version,
    qemuPid: qemu.pid,
    ramImage: held.images.path,
    waitingBytes: held.waitingBytes,
    longestStallMs: post.stalls.longestMs,
    witness: post.witness.status,
    paths: link.paths,
    ...(takeover.times === undefined ? {} : { failover: takeover.times }),
    phase: state.phase,
    generation: state.generation,
    ...("acked" in state ? { acked: state.acked, committed: state.committed } : {}),
    ...("reason" in state ? { reason: state.reason } : {}),
    core: { ...state },
  };
}
