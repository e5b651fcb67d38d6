/**
 * A VM under the primary's parts alone, with nobody at the other end: what they do to a running QEMU, and
 * undo. Its guest is that of deed-guest.ts. It has a card that leads nowhere and, if wanted, a disk. No
 * network of the host's, no guardian.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { DirtyRecords } from "../../src/guardian/disks/dirty-records.ts";
import { Protection, type ProtectionOptions } from "../../src/guardian/primary/protection.ts";
import { RunningVm, type Standstill } from "../../src/guardian/primary/running-vm.ts";
import { PrimaryStatistics } from "../../src/guardian/primary/statistics.ts";
import { qemuCommand } from "../../src/hypervisor/qemu/command-line.ts";
import { QemuProcess } from "../../src/hypervisor/qemu/process.ts";
import { buildTcgAids } from "../../src/hypervisor/qemu/tcg-aids.ts";
import { cacheDirectory } from "../../src/lab/configuration.ts";
import type { Session } from "../../src/link/session.ts";
import type { Fate } from "../../src/link/stream.ts";
import { type Deed, DeedGuest, deedRom } from "./deed-guest.ts";

const MIB = 1 << 20;
const DISK_BYTES = 4 * MIB;

export class SmallVm {
  readonly qemu: QemuProcess;
  readonly vm: RunningVm;
  readonly directory: string;
  /** Of the VM, one after the other. */
  readonly standstills: (Standstill["state"] | "runs")[] = [];
  readonly endings: string[] = [];
  /** What went wrong in a protection, as its guardian would hear. */
  readonly failures: string[] = [];
  readonly warnings: string[] = [];
  /** Of the present protection. */
  captured = -1;
  putOff = 0;
  private readonly guest: DeedGuest;
  private readonly hasDisk: boolean;
  private readonly records: DirtyRecords;
  private current: Protection | undefined;
  private stopping: Protection | undefined;

  private constructor(qemu: QemuProcess, directory: string, hasDisk: boolean) {
    this.qemu = qemu;
    this.directory = directory;
    this.guest = new DeedGuest(join(directory, "ram"));
    this.hasDisk = hasDisk;
    this.records = new DirtyRecords(qemu.qmp, hasDisk ? [0] : []);
    this.vm = new RunningVm(qemu, {
      statistics: new PrimaryStatistics(),
      onStandstill: (standstill) => this.standstills.push(standstill?.state ?? "runs"),
      onEnded: (how) => this.endings.push(how),
    });
  }

  /** Gone with the test. */
  static async start(
    t: TestContext,
    options: { disk?: boolean; extraArgs?: string[] } = {},
  ): Promise<SmallVm> {
    const { disk = false, extraArgs = [] } = options;
    const directory = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "remus-small-"));
    t.after(() => rmSync(directory, { recursive: true, force: true }));
    const image = join(directory, "disk.raw");
    writeFileSync(join(directory, "rom"), deedRom());
    writeFileSync(image, "");
    truncateSync(image, DISK_BYTES);
    mkdirSync(join(directory, "run"));
    const command = qemuCommand(
      {
        name: "small",
        uuid: "7a1f4c9e-4a44-4d57-8d2e-0f3b62f0c0df",
        machine: "pc",
        cpu: "qemu64",
        vcpus: 1,
        memoryMiB: 64,
        nics: [],
        disks: disk
          ? [{ image, format: "raw", bus: "virtio-blk", storage: "replicated", durability: "replicated" }]
          : [],
        boot: { kind: "firmware" },
        extraArgs: [
          ...["-option-rom", join(directory, "rom"), "-netdev", "user,id=net0,restrict=on"],
          ...["-device", "virtio-net-pci,netdev=net0,romfile=", ...extraArgs],
        ],
      },
      {
        role: "primary",
        accelerator: "tcg",
        qmpSockets: QemuProcess.monitorPaths(join(directory, "run")),
        ramFile: join(directory, "ram"),
      },
    );
    const qemu = await QemuProcess.start({
      command,
      preload: await buildTcgAids(cacheDirectory),
      runDirectory: join(directory, "run"),
      bindLifetimes: true,
    });
    t.after(async () => {
      qemu.kill();
      await qemu.exited;
    });
    const small = new SmallVm(qemu, directory, disk);
    t.after(() => small.current?.dispose());
    await small.counts();
    return small;
  }

  get runDirectory(): string {
    return join(this.directory, "run");
  }

  get count(): number {
    return this.guest.count;
  }

  does(deed: Deed): void {
    this.guest.does(deed);
  }

  counts(): Promise<void> {
    return this.guest.counts();
  }

  async status(): Promise<string> {
    return (await this.qemu.qmp.execute<{ status: string }>("query-status")).status;
  }

  /** A protection that captures as fast as it may, and whose backup acknowledges nothing. */
  protect(): Protection {
    const protection = this.make();
    protection.start().catch((error: Error) => this.failures.push(error.message));
    return protection;
  }

  /** The same, not begun. */
  make(): Protection {
    this.captured = -1;
    this.putOff = 0;
    const protection: Protection = new Protection(this.options(() => protection));
    this.current = protection;
    return protection;
  }

  /** As the guardian ends one. */
  async stop(protection: Protection): Promise<void> {
    this.vm.whenRunning(undefined);
    this.stopping = protection;
    await protection.tearDown();
    if (this.current === protection) this.current = undefined;
    await this.vm.look();
  }

  private options(protection: () => Protection): ProtectionOptions {
    const { qemu, vm } = this;
    const disks = this.hasDisk
      ? [{ disk: 0, bytes: DISK_BYTES, clusterBytes: undefined, image: join(this.directory, "disk.raw") }]
      : [];
    const request = () => void this.checkpoint(protection());
    return {
      qemu,
      netdevs: ["net0"],
      taps: [],
      runDirectory: this.runDirectory,
      stagingBytes: 16 * MIB,
      heldBytes: MIB,
      connection: deafSession(),
      ids: { vmId: new Uint8Array(16), generation: 1 },
      disks: {
        disks,
        relaxed: disks.map(({ disk }) => disk),
        ringBytes: disks.length === 0 ? 0 : 8 * MIB,
        syncBytesPerSecond: undefined,
        images: disks.map(({ disk }) => ({ id: disk, bytes: DISK_BYTES, state: "blank" })) as never,
        records: this.records,
        log: { folder: this.directory, vm: "small", session: "7a1f4c9e-4a44-4d57-8d2e-0f3b62f0c0e0" },
        onFailed: (reason) => this.failures.push(reason),
        report: () => {},
      },
      onSent: () => {},
      onCaptured: (epoch) => {
        this.captured = epoch;
        if (epoch > 0) return;
        protection()
          .beginEpochs()
          .catch((error: Error) => this.failures.push(error.message));
      },
      onRequested: () => vm.whenRunning(request),
      onEnded: (reason) => {
        // While it is taken out it is we who end it.
        if (this.stopping !== protection()) this.failures.push(reason);
      },
      onFailed: (reason) => this.failures.push(reason),
      warn: (text) => this.warnings.push(text),
      onPausing: () => vm.pausing(),
      whenRunning: (wish) => vm.whenRunning(wish),
      staysStopped: () => vm.standstill?.state === "paused",
    };
  }

  private async checkpoint(protection: Protection): Promise<void> {
    const runs = await this.vm.mayBePaused().catch(() => undefined);
    // Without an answer QEMU is gone.
    if (runs === undefined || this.current !== protection) return;
    if (runs) {
      protection.captureCheckpoint(false);
      return;
    }
    this.putOff++;
    this.vm.whenRunning(() => void this.checkpoint(protection));
  }
}

/** Takes everything and says nothing. */
function deafSession(): Session {
  return {
    bufferedBytes: 0,
    keptBytes: 0,
    whenBelow: async () => {},
    send: (_frame: unknown, fate: Fate = {}) =>
      setImmediate(() => {
        fate.left?.();
        fate.free?.();
      }),
  } as unknown as Session;
}
