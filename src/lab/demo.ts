/**
 * The demo: boot, protect, count over one TCP connection, kill host A at a random instant, count on, and say
 * how it went. All figures come from the parts themselves: pauses from QEMU's events, gaps from the client.
 */
import { writeFile } from "node:fs/promises";
import type { BackupStatus, PrimaryStatus, SyncSummary } from "../guardian/control/status.ts";
import type { ClientProcess } from "./client-process.ts";
import type { ClientSummary } from "./client-report.ts";
import { fsckClean } from "./file-system.ts";
import { type Kill, Lab } from "./lab.ts";
import { Screen } from "./screen.ts";

export interface DemoOptions {
  readonly intervalMs: number;
  /** Default 200. */
  readonly detectionMs?: number;
  readonly seconds: number;
  readonly load: "idle" | "busy";
  /** Chooses the instant of the kill. */
  readonly seed: number;
  readonly kill: Kill;
  readonly ramChecks: boolean;
  readonly json?: string | undefined;
}

/** Every so many checkpoints the VM is held and its RAM compared (I7). */
const CHECKPOINTS_PER_RAM_CHECK = 20;
/** At every so many of these looks the disks are compared, too, which takes longer. */
const RAM_CHECKS_PER_DISK_CHECK = 4;
/** The client must have had so many answers after the kill before the demo ends. */
const ANSWERS_AFTER_KILL = 100;
/** Redis keeps every write on it, synced. */
const DATA_DISK_MIB = 128;
const AFTER_KILL_TIMEOUT_MS = 20_000;

type InRole = PrimaryStatus | BackupStatus;

/** What `--json` writes. */
export interface DemoReport {
  readonly checkpoints: number;
  readonly checkpointsPerSecond: number;
  readonly pauseMs: { p50: number; p95: number; p99: number; max: number };
  readonly dirtyPages: { p50: number; p95: number; max: number };
  readonly bytesOnWire: number;
  readonly ramChecks: number;
  readonly ramMismatches: number;
  readonly disk: {
    /** How often the disks of both hosts were compared, with the VM held, and how often they differed. */
    checks: number;
    mismatches: number;
    /** The file system on the survivor's image, at the end. */
    fsckClean: boolean;
    /**
     * What bringing the returned host's image up to date has cost on the wire; null where no host returned.
     */
    resyncBytes: number | null;
    resyncWay: string | null;
  };
  readonly failover: { detectMs: number; resumeMs: number; outageMs: number };
  readonly client: {
    connections: number;
    resets: number;
    requests: number;
    acked: number;
    lost: number;
    wentBack: number;
    longestGapMs: number;
  };
  readonly accelerator: string;
  readonly qemuVersion: string;
  /** The host on which the VM went on. When only the link failed, it may be either. */
  readonly goesOn: "a" | "b";
  readonly kill: { kind: Kill; atSeconds: number; seed: number };
  readonly load: "idle" | "busy";
  readonly intervalMs: number;
}

/** Runs the demo. Returns the report; its lab is gone when this settles, however it ends. */
export async function runDemo(options: DemoOptions, onLab: (lab: Lab) => void): Promise<DemoReport> {
  const screen = new Screen();
  screen.step("network, guest image");
  const lab = await Lab.create({
    load: options.load,
    intervalMs: options.intervalMs,
    ...(options.detectionMs === undefined ? {} : { detectionMs: options.detectionMs }),
    disks: [{ mebibytes: DATA_DISK_MIB, use: "data" }],
    onEvent: (host, event) => {
      if (event.text !== undefined) screen.note(`${host.toUpperCase()}: ${event.text}`);
    },
  });
  onLab(lab);
  try {
    screen.step("booting the VM on host A, its standby on host B");
    await lab.start();
    const client = lab.client();
    await client.answers(20, 20_000);
    const { accelerator, qemuVersion } = await lab.primary.control.primaryStatus();
    screen.title = `Remus demo: QEMU ${qemuVersion}, ${accelerator === "tcg" ? "software emulation (no usable KVM here)" : "KVM"}, interval ${options.intervalMs} ms, load ${options.load}`;
    screen.step("client connected; protecting the running VM (first pass)");
    await lab.protect();
    screen.step("protected");
    const demo = new ProtectedRun(lab, client, options, screen);
    const report = await demo.run();
    if (options.json !== undefined) await writeFile(options.json, `${JSON.stringify(report, null, 2)}\n`);
    return report;
  } finally {
    screen.end();
    await lab.destroy();
  }
}

class ProtectedRun {
  private readonly lab: Lab;
  private readonly client: ClientProcess;
  private readonly options: DemoOptions;
  private readonly screen: Screen;
  private ramChecks = 0;
  private ramMismatches = 0;
  private diskChecks = 0;
  private diskMismatches = 0;
  private killed = false;

  constructor(lab: Lab, client: ClientProcess, options: DemoOptions, screen: Screen) {
    this.lab = lab;
    this.client = client;
    this.options = options;
    this.screen = screen;
  }

  async run(): Promise<DemoReport> {
    const { lab, client, options, screen } = this;
    const killAfterMs = options.seconds * 1000 * (0.5 + 0.5 * random(options.seed));
    await lab.primary.control.order("reset-statistics");
    if (options.ramChecks) void this.checkRam();
    const status = await this.until(performance.now() + killAfterMs);
    this.killed = true;
    const atMs = await lab.kill(options.kill);
    screen.note(`host A failed: ${options.kill}`);
    screen.aliveA = options.kill === "link";
    const enough = client.answers(ANSWERS_AFTER_KILL, AFTER_KILL_TIMEOUT_MS);
    const backup = await this.watchBackup(enough, status);
    if (options.kill === "link")
      screen.note(`the witness gave the VM to host ${(await lab.decided()).toUpperCase()}`);
    const resync = options.kill === "link" ? undefined : await this.bringBack();
    const summary = await client.finish();
    const clean = await this.lookAtDisk();
    return this.report({ status, backup, summary, resync, clean }, { atMs, atSeconds: killAfterMs / 1000 });
  }

  /** Host A returns, with its old disk, and protects the VM that it lost. */
  private async bringBack(): Promise<SyncSummary | undefined> {
    const { client, lab, screen } = this;
    await lab.failedOver();
    screen.note("host A returns, with the disk it had");
    await lab.returnHost();
    await lab.protect();
    await client.answers(ANSWERS_AFTER_KILL, AFTER_KILL_TIMEOUT_MS);
    const { syncs } = await lab.primary.control.primaryStatus();
    return syncs[0];
  }

  /** Ends the VM where it runs, as a power failure would, and looks at the file system that it leaves. */
  private async lookAtDisk(): Promise<boolean> {
    const { lab, screen } = this;
    screen.note("the end: every guardian is killed, and the survivor's file system is checked");
    const survivor = lab.owner;
    await Promise.all([lab.backup.kill(), lab.primary.kill()]);
    return await fsckClean(lab.disks.image(survivor, 0));
  }

  /** Compares the RAM at every 20th checkpoint, until the kill, which may well come in the middle of it. */
  private async checkRam(): Promise<void> {
    for (let epoch = 0; !this.killed; ) {
      try {
        const check = await this.lab.ramCheck(epoch, {
          disks: this.ramChecks % RAM_CHECKS_PER_DISK_CHECK === 0,
        });
        this.ramChecks++;
        if (check.disks.length > 0) this.diskChecks++;
        if (check.differing.length > 0) this.ramMismatches++;
        if (check.disks.some(({ offsets }) => offsets.length > 0)) this.diskMismatches++;
        epoch = check.epoch + CHECKPOINTS_PER_RAM_CHECK;
      } catch (error) {
        if (!this.killed) this.screen.note(`RAM check: ${(error as Error).message}`);
        return;
      }
    }
  }

  /** Shows what happens until `deadlineMs`. Returns the last status before it. */
  private async until(deadlineMs: number): Promise<PrimaryStatus> {
    const { lab } = this;
    const ask = async (): Promise<PrimaryStatus> => {
      const now = await lab.primary.control.primaryStatus().catch(() => undefined);
      if (now?.phase !== "protected")
        throw new Error("protection ended before host A was killed; see the events above");
      return now;
    };
    let status = await ask();
    while (performance.now() < deadlineMs) {
      await this.show(status);
      await new Promise((next) =>
        setTimeout(next, Math.min(200, Math.max(0, deadlineMs - performance.now()))),
      );
      status = await ask();
    }
    return status;
  }

  /** Shows the backup and the client until `enough`. Returns the backup's last status. */
  private async watchBackup(enough: Promise<void>, last: PrimaryStatus): Promise<InRole> {
    let waiting = true;
    const done = enough.finally(() => {
      waiting = false;
    });
    done.catch(() => {});
    while (waiting) {
      await this.show(last);
      await Promise.race([done, new Promise((next) => setTimeout(next, 200))]);
    }
    return await this.show(last);
  }

  private async show(status: PrimaryStatus): Promise<InRole> {
    const { lab, screen, client } = this;
    // Once it has taken the VM over, the same guardian is a primary.
    const backup = await lab.backup.control.statusInRole();
    screen.show({
      phase: status.phase,
      backupPhase: backup.phase,
      epoch: status.acked ?? 0,
      pauseMs: status.pauseMs.last,
      pauseMedianMs: status.pauseMs.p50,
      checkpointsPerSecond: status.checkpointsPerSecond,
      dirtyPages: status.dirtyPages.last,
      heldBytes: screen.aliveA ? status.heldBytes : 0,
      clientRate: client.progress?.rate ?? 0,
      clientAcked: client.progress?.acked ?? 0,
      ramChecks: this.ramChecks,
      ramMismatches: this.ramMismatches,
    });
    return backup;
  }

  private report(
    seen: {
      readonly status: PrimaryStatus;
      readonly backup: InRole;
      readonly summary: ClientSummary;
      readonly resync: SyncSummary | undefined;
      readonly clean: boolean;
    },
    kill: { atMs: number; atSeconds: number },
  ): DemoReport {
    const { clean, resync, status, summary } = seen;
    const { failover } = seen.backup;
    const { p50, p95, p99, max } = status.pauseMs;
    const dirty = status.dirtyPages;
    const detectedAtMs = failover?.detectedAtMs ?? Number.NaN;
    const { connections, resets, requests, acked, lost, wentBack, longestGapMs } = summary;
    return {
      checkpoints: status.checkpoints,
      checkpointsPerSecond: status.checkpointsPerSecond,
      pauseMs: { p50, p95, p99, max },
      dirtyPages: { p50: dirty.p50, p95: dirty.p95, max: dirty.max },
      bytesOnWire: status.bytesOnWire,
      ramChecks: this.ramChecks,
      ramMismatches: this.ramMismatches,
      disk: {
        checks: this.diskChecks,
        mismatches: this.diskMismatches,
        fsckClean: clean,
        resyncBytes: resync?.wireBytes ?? null,
        resyncWay: resync?.way ?? null,
      },
      failover: {
        detectMs: detectedAtMs - kill.atMs,
        resumeMs: (failover?.runningAtMs ?? Number.NaN) - detectedAtMs,
        outageMs: outageOf(summary, kill.atMs),
      },
      client: { connections, resets, requests, acked, lost, wentBack, longestGapMs },
      accelerator: status.accelerator,
      qemuVersion: status.qemuVersion,
      goesOn: this.lab.owner,
      kill: { kind: this.options.kill, atSeconds: kill.atSeconds, seed: this.options.seed },
      load: this.options.load,
      intervalMs: this.options.intervalMs,
    };
  }
}

/** From the kill to the client's next answer. */
function outageOf(summary: ClientSummary, killedAtMs: number): number {
  const around = summary.gaps
    .map(({ beganNs, endedNs }) => ({ began: Number(beganNs) / 1e6, ended: Number(endedNs) / 1e6 }))
    .find(({ began, ended }) => began <= killedAtMs && killedAtMs <= ended);
  return around === undefined ? Number.NaN : around.ended - killedAtMs;
}

/** A number in [0, 1) from a seed (mulberry32, one step). */
export function random(seed: number): number {
  let t = (seed + 0x6d2b79f5) | 0;
  t = Math.imul(t ^ (t >>> 15), t | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

/** Whether nothing went wrong. */
export function succeeded({ client, disk, goesOn, ramMismatches, failover }: DemoReport): boolean {
  return (
    disk.mismatches === 0 &&
    disk.fsckClean &&
    client.connections === 1 &&
    client.resets === 0 &&
    client.lost === 0 &&
    client.wentBack === 0 &&
    ramMismatches === 0 &&
    (goesOn === "a" || Number.isFinite(failover.resumeMs))
  );
}
