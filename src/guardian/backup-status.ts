/** What `status` says of a backup (docs/specs/control.md). */
import type { BackupState } from "../core/backup.ts";
import type { QemuProcess } from "../hypervisor/qemu/process.ts";
import type { BackupLink } from "./backup-link.ts";
import type { HeldCheckpoints } from "./held-checkpoints.ts";
import type { Post } from "./role.ts";
import type { StandbyTakeover } from "./standby-takeover.ts";
import type { Ground } from "./vm-process.ts";

export interface BackupParts {
  readonly post: Post;
  readonly ground: Ground;
  readonly qemu: QemuProcess;
  readonly held: HeldCheckpoints;
  readonly link: BackupLink;
  readonly takeover: StandbyTakeover;
  readonly state: BackupState;
}

export function backupStatus(parts: BackupParts): Record<string, unknown> {
  const { ground, held, link, post, qemu, state, takeover } = parts;
  return {
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
    failover: takeover.times,
    ...state,
  };
}
