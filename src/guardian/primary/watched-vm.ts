/** The VM with those who act on what its QEMU tells of it. */
import type { PrimaryEvent, PrimaryState } from "../../core/primary-protocol.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import type { PrimaryConfig } from "../config/config.ts";
import type { Context } from "../context.ts";
import { DiskErrors } from "../disks/disk-errors.ts";
import type { OwnedDisks } from "../disks/owned-disks.ts";
import { ChangeWatch } from "../watch/change-watch.ts";
import { StandstillWatch } from "../watch/standstill-watch.ts";
import { GuestEnd } from "./guest-end.ts";
import type { Protection } from "./protection.ts";
import { RunningVm } from "./running-vm.ts";
import type { PrimaryStatistics } from "./statistics.ts";
import { takeCheckpoint } from "./take-checkpoint.ts";

export interface WatchedVmOptions {
  readonly qemu: QemuProcess;
  readonly disks: OwnedDisks;
  readonly context: Context<PrimaryConfig>;
  readonly statistics: PrimaryStatistics;
  readonly state: () => PrimaryState;
  readonly protection: () => Protection | undefined;
  readonly feed: (event: PrimaryEvent) => void;
}

export interface WatchedVm {
  readonly vm: RunningVm;
  readonly guestEnd: GuestEnd;
  readonly changes: ChangeWatch;
  /** Of the protection that is under way; feeds `capture-put-off` if the VM does not run. */
  readonly takeCheckpoint: (hold: boolean) => Promise<void>;
}

export function watchVm(options: WatchedVmOptions): WatchedVm {
  const { disks, feed, context, protection, qemu, state, statistics } = options;
  const { log } = context;
  const guestEnd = new GuestEnd({ qemu, disks, log, state, feed });
  const standstills = new StandstillWatch({
    context,
    state,
    captures: () => protection()?.captures === true,
    feed,
  });
  const vm = new RunningVm(qemu, {
    statistics,
    onStandstill: (standstill) => standstills.told(standstill),
    onEnded: (how) => guestEnd.begin(how),
  });
  new DiskErrors({
    log,
    control: context.control,
    qmp: qemu.qmp,
    disks: context.config.vm.disks,
    standsStill: () =>
      vm.standstill?.state === "io-error" && !["handing-over", "superseded"].includes(state().phase),
  });
  const changes = new ChangeWatch({
    qmp: qemu.qmp,
    cards: context.config.vm.nics.length,
    log,
    isProtected: () => isProtected(state()),
    onChanged: (what) => {
      const because = `the VM is no longer what the backup has agreed to: ${what}`;
      const text = `${because}. Protection ends, and the VM runs on`;
      log.warn(text);
      context.control.publish({ kind: "report", level: "warn", text });
      feed({ type: "stop-asked", because });
    },
  });
  // A VM that was taken over ran before anybody listened: its guest may have ended. Without an answer, QEMU's
  // end is heard of next.
  vm.look().catch(() => {});
  return { vm, guestEnd, changes, takeCheckpoint: (hold) => takeCheckpoint(vm, hold, protection, feed) };
}

/** A handover is not taken back, and an end that has begun needs no other reason. */
function isProtected(state: PrimaryState): boolean {
  return state.phase === "protected" && state.acked >= 0;
}
