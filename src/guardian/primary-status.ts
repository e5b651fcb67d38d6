/** `status` of a primary, field by field as docs/specs/control.md lists them. */
import type { PrimaryState } from "../core/primary-protocol.ts";
import { ramBlockName } from "../hypervisor/qemu/command-line.ts";
import type { QemuProcess } from "../hypervisor/qemu/process.ts";
import type { PathSummary } from "./path-watch.ts";
import type { PrimaryStatistics } from "./primary-statistics.ts";
import type { Protection } from "./protection.ts";
import type { Post, TakenOver } from "./role.ts";
import type { Ground } from "./vm-process.ts";

export interface StatusParts {
  readonly post: Post;
  readonly ground: Ground;
  readonly qemu: QemuProcess;
  readonly takenOver: TakenOver | undefined;
  readonly state: PrimaryState;
  readonly protection: Protection | undefined;
  readonly protectionWanted: boolean;
  readonly paths: readonly PathSummary[];
  readonly statistics: PrimaryStatistics;
}

export function primaryStatus(parts: StatusParts): Record<string, unknown> {
  const { ground, paths, post, protection, protectionWanted, qemu, state, statistics, takenOver } = parts;
  return {
    role: "primary",
    vm: post.config.vm.name,
    accelerator: ground.accelerator,
    qemuVersion: qemu.qmp.version,
    qemuPid: qemu.pid,
    ramBlock: ramBlockName,
    ...(takenOver === undefined ? {} : { ramImage: takenOver.ramFile }),
    ...state,
    protectionWanted,
    heldBytes: protection?.heldBytes ?? 0,
    longestStallMs: post.stalls.longestMs,
    witness: post.witness.status,
    paths,
    droppedFrames: protection?.droppedFrames ?? 0,
    stagingBytes: protection?.staging.takenBytes ?? 0,
    ...(takenOver?.failover === undefined ? {} : { failover: takenOver.failover }),
    sync: protection?.disks.progress ?? {},
    syncs: protection?.disks.syncs ?? [],
    ...statistics.summary(protection?.bytesOnWire ?? 0),
  };
}
