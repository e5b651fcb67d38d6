/**
 * The backup guardian: keeps a standby QEMU over the RAM image, takes checkpoints in, and lets the standby run when the primary is
 * lost and the arbiter agrees. It feeds `core/backup` and carries its effects out.
 */
import { hostname } from "node:os";
import { join } from "node:path";
import { type MessageOf, ProtocolError, type ReplicationMessage } from "../codec/replication.ts";
import { encodeAck, encodeGoodbyeOk, encodeTakeover } from "../codec/replication-encode.ts";
import { type FrameIds, vmIdBytes } from "../codec/replication-header.ts";
import type { Arbiter } from "../core/arbiter.ts";
import {
  type BackupEffect,
  type BackupEvent,
  type BackupState,
  startBackup,
  stepBackup,
} from "../core/backup.ts";
import { InvariantBroken } from "../core/transition.ts";
import { type Fingerprint, fingerprintMismatch, ramBlockName } from "../hypervisor/qemu/command-line.ts";
import { backupPreflight } from "../hypervisor/qemu/preflight.ts";
import type { QemuProcess } from "../hypervisor/qemu/process.ts";
import { prepareStandby, runStandby } from "../hypervisor/qemu/standby.ts";
import { ramKiB } from "../hypervisor/qemu/tcg-aids.ts";
import type { Connection } from "../link/connection.ts";
import { type Caller, type Listener, listen } from "../link/listen.ts";
import { BackupImages, LayoutError } from "../memory/backup-images.ts";
import { CheckpointBuffer, type WholeCheckpoint } from "../memory/checkpoint-buffer.ts";
import { StandbyTaps } from "../net/standby-taps.ts";
import { Committer } from "./committer.ts";
import type { BackupConfig } from "./config.ts";
import { ControlSocket } from "./control.ts";
import type { Log } from "./log.ts";
import { monotonicMs } from "./monotonic.ts";
import { Stalls } from "./stalls.ts";
import { type Ground, heed, machineOf, prepareGround, startQemu } from "./vm-process.ts";

const MIB = 1 << 20;

/** When things happened at failover: milliseconds of CLOCK_MONOTONIC, which all processes of a machine share. */
interface FailoverTimes {
  detectedAtMs: number;
  runningAtMs?: number;
}

export class BackupGuardian {
  /** Settles when the standby's process is gone, with the exit status of the guardian. */
  readonly done: Promise<number>;
  private readonly finish: (status: number) => void;
  private readonly stalls = new Stalls();
  private readonly config: BackupConfig;
  private readonly log: Log;
  private readonly arbiter: Arbiter;
  private readonly ground: Ground;
  private readonly qemu: QemuProcess;
  /** Hashes the boot files, so it is made once. */
  private readonly machine: Fingerprint;
  private readonly images: BackupImages;
  private readonly committer: Committer;
  private readonly taps: StandbyTaps;
  private listener: Listener | undefined;
  private control: ControlSocket | undefined;
  private state: BackupState = startBackup(1);
  private connection: Connection | undefined;
  private incoming: CheckpointBuffer | undefined;
  private whole: WholeCheckpoint | undefined;
  private failover: FailoverTimes | undefined;
  private quitting = false;
  /** The checkpoint from which the VM went on here. */
  private tookOverAt = 0;

  private constructor(
    config: BackupConfig,
    log: Log,
    arbiter: Arbiter,
    parts: { ground: Ground; qemu: QemuProcess; images: BackupImages },
  ) {
    const { promise, resolve } = Promise.withResolvers<number>();
    this.done = promise;
    this.finish = resolve;
    this.config = config;
    this.log = log;
    this.arbiter = arbiter;
    this.ground = parts.ground;
    this.qemu = parts.qemu;
    this.machine = machineOf(config, parts.ground, parts.qemu);
    this.images = parts.images;
    this.taps = new StandbyTaps(config.vm.nics, join(config.runDirectory, "bridges.json"), (text) =>
      log.warn(text),
    );
    this.committer = new Committer(parts.images, (epoch) => this.feed({ type: "committed", epoch }));
    void this.qemu.exited.then((how) => this.standbyGone(how));
  }

  /** Preflight, image, standby, and an open door for the primary. Leaves nothing behind when it fails. */
  static async start(config: BackupConfig, log: Log, arbiter: Arbiter): Promise<BackupGuardian> {
    const { vm, limits, imageDirectory } = config;
    const ground = await prepareGround(config, log);
    heed(await backupPreflight(vm, { imageDirectory, stagingMiB: limits.stagingMiB }), log);
    const path = join(imageDirectory, `${vm.name}.ram`);
    const images = BackupImages.create(path, ramBlockName, ramKiB(vm.memoryMiB, ground.accelerator) * 1024);
    let qemu: QemuProcess | undefined;
    try {
      qemu = await startQemu(config, ground, { role: "standby", ramFile: path });
      await prepareStandby(qemu.qmp);
      const guardian = new BackupGuardian(config, log, arbiter, { ground, qemu, images });
      await guardian.open();
      return guardian;
    } catch (error) {
      qemu?.kill();
      images.discard();
      throw error;
    }
  }

  private async open(): Promise<void> {
    await this.taps.park();
    const { replication, vm, timing, runDirectory } = this.config;
    this.control = await ControlSocket.open(join(runDirectory, "control.sock"), {
      status: () => this.status(),
      quit: () => this.quit(),
    });
    const { host, port } = replication.listen;
    this.listener = await listen({
      address: host,
      port,
      vmId: vmIdBytes(vm.uuid),
      host: hostname(),
      generation: () => this.state.generation,
      onPrimary: (caller) => this.greet(caller),
      onTurnedAway: ({ message, peer }) => this.log.warn(`${peer}: ${message}`),
      heartbeatMs: timing.heartbeatMs,
      detectionMs: timing.detectionMs,
      urgent: () => this.state.phase !== "filling",
      onSuspicion: (suspected) => {
        if (suspected && this.state.phase === "armed") void this.taps.open();
        if (!suspected && ["waiting", "filling", "armed"].includes(this.state.phase)) void this.taps.park();
      },
    });
    this.log.info(
      `standby for VM ${vm.name} is ready (QEMU ${this.qemu.qmp.version}); listening on ${host}:${port}`,
    );
  }

  // Orders

  private status(): Record<string, unknown> {
    return {
      role: "backup",
      vm: this.config.vm.name,
      accelerator: this.ground.accelerator,
      qemuVersion: this.qemu.qmp.version,
      qemuPid: this.qemu.pid,
      ramImage: this.images.path,
      waitingBytes: this.committer.waitingBytes,
      longestStallMs: this.stalls.longestMs,
      failover: this.failover,
      ...this.state,
    };
  }

  private quit(): void {
    this.quitting = true;
    this.closeLink();
    this.qemu.kill();
  }

  // Events

  private async standbyGone(how: string): Promise<void> {
    if (!this.quitting) this.log.error(`the standby is gone: ${how}`);
    // Without a standby this host must not ask for the VM: the primary is to hear at once that it is alone.
    this.quitting = true;
    this.closeLink();
    this.listener?.close();
    this.control?.close();
    this.committer.forget();
    this.images.discard();
    await this.taps.restore();
    this.finish(this.quitting ? 0 : 1);
  }

  private greet(caller: Caller): void {
    if (this.state.phase === "running" || this.state.phase === "recovering") {
      caller.tellTakeover(this.tookOverAt);
      return;
    }
    const reason = this.whyNot(caller);
    if (reason !== undefined) {
      caller.refuse(reason);
      return;
    }
    const connection = caller.welcome({
      onMessage: (message) => this.take(message),
      onClosed: ({ message }) => {
        if (this.connection === connection) this.primaryLost(message);
      },
      onSilent: (silentMs) => this.primaryLost(`nothing was heard from it for ${Math.round(silentMs)} ms`),
    });
    this.connection = connection;
    this.feed({ type: "session-opened", generation: caller.generation });
  }

  private whyNot({ hello, generation }: Caller): { code: string; message: string } | undefined {
    if (this.state.phase !== "waiting")
      return { code: "wrong-state", message: `the backup is ${this.state.phase}` };
    if (generation < this.state.generation)
      return {
        code: "stale-generation",
        message: `generation ${generation} is over, this is ${this.state.generation}`,
      };
    const mismatch = fingerprintMismatch(hello.machine, this.machine);
    return mismatch === undefined ? undefined : { code: "other-machine", message: mismatch };
  }

  private primaryLost(reason: string): void {
    if (this.quitting) return;
    this.failover ??= { detectedAtMs: monotonicMs() };
    this.feed({ type: "primary-lost", reason });
    if (this.state.phase === "waiting") this.failover = undefined;
  }

  /** Throws ProtocolError on what does not belong here; the connection then closes. */
  private take(message: ReplicationMessage): void {
    if (this.quitting || (this.state.phase !== "filling" && this.state.phase !== "armed")) return;
    switch (message.type) {
      case "layout":
        this.begin(message);
        return;
      case "pages":
        this.takePages(message);
        return;
      case "device-state":
        this.buffer().addDeviceState(message);
        return;
      case "checkpoint-end":
        this.whole = this.buffer().finish(message);
        this.incoming = undefined;
        this.feed({ type: "checkpoint-whole", epoch: this.whole.epoch });
        return;
      case "goodbye":
        this.feed({ type: "goodbye" });
        return;
      default:
        return;
    }
  }

  private begin({ layout }: MessageOf<"layout">): void {
    if (this.state.phase !== "filling")
      throw new ProtocolError("wrong-order", "message", "layout", "one at the start of a session");
    try {
      this.images.begin(layout);
    } catch (error) {
      if (error instanceof LayoutError)
        throw new ProtocolError("bad-payload", "layout", "not fitting", error.message);
      throw error;
    }
  }

  /** Pages of the first pass go straight into the images, which are no checkpoint yet; later ones wait for theirs to be whole. */
  private takePages(message: MessageOf<"pages">): void {
    const buffer = this.buffer();
    if (buffer.epoch > 0) {
      buffer.keep(message);
      return;
    }
    buffer.count(message);
    this.images.write(message.pages);
  }

  private buffer(): CheckpointBuffer {
    const epoch = this.state.phase === "armed" ? this.state.acked + 1 : 0;
    // A guest that rewrites all its memory in one epoch sends all of it.
    this.incoming ??= new CheckpointBuffer(epoch, (this.config.vm.memoryMiB * 1.1 + 128) * MIB);
    return this.incoming;
  }

  private feed(event: BackupEvent): void {
    const before = this.state;
    let effects: readonly BackupEffect[];
    try {
      const step = stepBackup(this.state, event);
      this.state = step.state;
      effects = step.effects;
    } catch (error) {
      this.log.error(`${(error as Error).name}: ${(error as Error).message}`);
      if (!(error instanceof InvariantBroken)) throw error;
      this.quit();
      return;
    }
    for (const effect of effects) this.carryOut(effect);
    if (before.phase !== this.state.phase)
      this.control?.publish({ kind: "phase", phase: this.state.phase, generation: this.state.generation });
  }

  // Effects

  private carryOut(effect: BackupEffect): void {
    switch (effect.type) {
      case "ack":
        if (this.whole?.epoch !== effect.epoch)
          throw new InvariantBroken("I1", `ack ${effect.epoch} without that checkpoint in memory`);
        this.connection?.send(encodeAck(this.ids(), effect.epoch));
        return;
      case "commit":
        this.committer.add(this.whole!);
        return;
      case "drop-incomplete":
        this.incoming = undefined;
        return;
      case "forget":
        this.incoming = undefined;
        this.committer.forget();
        return;
      case "goodbye-ok":
        this.connection?.send(encodeGoodbyeOk(this.ids()));
        return;
      case "close-link":
        this.closeLink();
        return;
      case "ask-arbiter":
        void this.taps.open();
        void this.askArbiter(effect.generation);
        return;
      case "takeover": {
        const { connection } = this;
        this.connection = undefined;
        this.tookOverAt = "acked" in this.state ? this.state.acked : 0;
        connection?.finish(encodeTakeover(this.ids(), this.tookOverAt), "this host has taken over");
        return;
      }
      case "run-standby":
        void this.runStandby(effect.epoch);
        return;
      case "report":
        this.log[effect.level](effect.text);
        this.control?.publish({ kind: "report", level: effect.level, text: effect.text });
        return;
    }
  }

  private closeLink(): void {
    const { connection } = this;
    this.connection = undefined;
    connection?.destroy("the backup has ended the session");
  }

  private async askArbiter(generation: number): Promise<void> {
    const verdict = await this.arbiter.ask(this.config.vm.uuid, generation, hostname());
    this.feed({ type: "verdict", ...verdict });
  }

  private async runStandby(epoch: number): Promise<void> {
    if (!("committed" in this.state) || this.state.committed !== epoch)
      throw new InvariantBroken(
        "I2",
        `the standby would run checkpoint ${epoch}, which is not in the images`,
      );
    try {
      await this.taps.open();
      await runStandby(this.qemu.qmp, { ...this.images.composition(), device: this.committer.device });
      if (this.failover !== undefined) this.failover.runningAtMs = monotonicMs();
      this.feed({ type: "standby-runs" });
    } catch (error) {
      this.feed({ type: "standby-failed", reason: (error as Error).message });
    }
  }

  private ids(): FrameIds {
    return { vmId: vmIdBytes(this.config.vm.uuid), generation: this.state.generation };
  }
}
