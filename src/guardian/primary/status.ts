/** `status` of a primary, field by field as docs/specs/control.md lists them. */
import type { PrimaryState } from "../../core/primary-protocol.ts";
import { ramBlockName } from "../../hypervisor/qemu/command-line.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import type { Context, TakenOver } from "../context.ts";
import { CONTROL_VERSION } from "../control/requests.ts";
import type { PrimaryStatus } from "../control/status.ts";
import type { HostEnvironment } from "../host-environment.ts";
import type { KeepProtected } from "./keep-protected.ts";
import type { PrimaryLink } from "./link.ts";
import type { Protection } from "./protection.ts";
import type { RunningVm } from "./running-vm.ts";
import type { PrimaryStatistics } from "./statistics.ts";

export interface StatusParts {
  readonly context: Context;
  readonly environment: HostEnvironment;
  readonly qemu: QemuProcess;
  readonly takenOver: TakenOver | undefined;
  readonly state: PrimaryState;
  readonly protection: Protection | undefined;
  readonly keep: KeepProtected;
  readonly link: PrimaryLink;
  readonly vm: RunningVm;
  readonly statistics: PrimaryStatistics;
}

export function primaryStatus(parts: StatusParts): PrimaryStatus {
  const { environment, keep, link, context, protection, qemu, state, statistics, takenOver, vm } = parts;
  return {
    version: CONTROL_VERSION,
    role: "primary",
    vm: context.config.vm.name,
    accelerator: environment.accelerator,
    qemuVersion: qemu.qmp.version,
    qemuPid: qemu.pid,
    ramBlock: ramBlockName,
    ...(takenOver === undefined ? {} : { ramImage: takenOver.ramFile }),
    phase: state.phase,
    generation: state.generation,
    ...("acked" in state ? { acked: state.acked } : {}),
    core: { ...state },
    ...(vm.standstill === undefined ? {} : { standstill: vm.standstill }),
    protectionWanted: keep.wanted,
    heldBytes: protection?.heldBytes ?? 0,
    longestStallMs: context.stalls.longestMs,
    witness: context.witness.status,
    paths: link.paths,
    droppedFrames: protection?.droppedFrames ?? 0,
    stagingBytes: protection?.staging.takenBytes ?? 0,
    ...(takenOver?.failover === undefined ? {} : { failover: takenOver.failover }),
    ...(protection?.disks.progress === undefined ? {} : { sync: protection.disks.progress }),
    syncs: [...(protection?.disks.syncs ?? [])],
    ...statistics.summary(protection?.bytesOnWire),
  };
}
