/** A protection with what this host's configuration and the session with its backup make of it. */
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import type { PrimaryConfig } from "../config/config.ts";
import type { Context } from "../context.ts";
import { OrderRefused } from "../control/refusal.ts";
import type { DirtyRecords } from "../disks/dirty-records.ts";
import type { OwnedDisks } from "../disks/owned-disks.ts";
import type { PrimaryLink } from "./link.ts";
import { Protection, type ProtectionOptions } from "./protection.ts";
import type { RunningVm } from "./running-vm.ts";

const MIB = 1 << 20;

export interface ProtectedParts {
  readonly context: Context<PrimaryConfig>;
  readonly qemu: QemuProcess;
  /** Its session has begun. */
  readonly link: PrimaryLink;
  readonly disks: OwnedDisks;
  readonly records: DirtyRecords;
  readonly vm: RunningVm;
}

export type ProtectionEvents = Pick<
  ProtectionOptions,
  "onSent" | "onCaptured" | "onRequested" | "onEnded" | "onFailed"
> & {
  readonly onDiskFailed: (reason: string) => void;
  readonly report: (level: "info" | "warn", text: string) => void;
};

/**
 * @throws OrderRefused where the file names no other host: one that was the backup alone, and has taken the
 * VM over
 */
export function refuseWithoutPeer({ replication }: PrimaryConfig): void {
  if (replication.peer.length > 0) return;
  throw new OrderRefused(
    "no-peer",
    "this host's file has no replication.peer, so there is nobody to protect the VM towards. The VM runs on; add the other host's address to the file, and start this guardian with it when the VM may end",
  );
}

export function newProtection(
  { disks, link, context, qemu, records, vm: running }: ProtectedParts,
  { onDiskFailed, report, ...events }: ProtectionEvents,
): Protection {
  const { limits, runDirectory, stateDirectory, timing, vm } = context.config;
  const { connection, ids, images, session } = link;
  return new Protection({
    ...events,
    onPausing: () => running.pausing(),
    whenRunning: (wish) => running.whenRunning(wish),
    staysStopped: () => running.standstill?.state === "paused",
    qemu,
    netdevs: vm.nics.map((_, index) => `net${index}`),
    taps: vm.nics.map(({ tap }) => tap),
    warn: (text) => report("warn", text),
    runDirectory,
    stagingBytes: limits.stagingMiB * MIB,
    heldBytes: limits.heldMiB * MIB,
    connection: connection!,
    ids,
    disks: {
      disks: disks.all,
      relaxed: disks.relaxed,
      ringBytes: limits.diskMiB * MIB,
      syncBytesPerSecond: timing.syncMiBps === undefined ? undefined : timing.syncMiBps * MIB,
      images,
      records,
      log: { folder: stateDirectory, vm: vm.name, session },
      onFailed: onDiskFailed,
      report: (text) => report("info", text),
    },
  });
}
