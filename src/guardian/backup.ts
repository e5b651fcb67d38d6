/**
 * The backup guardian: keeps a standby QEMU over the RAM image and the disk images, takes checkpoints in, and lets the standby run when the
 * primary is lost and the arbiter agrees. It feeds `core/backup` and carries its effects out.
 */
import { hostname } from "node:os";
import { join } from "node:path";
import type { ReplicationMessage } from "../codec/replication.ts";
import { encodeHashes } from "../codec/replication-disk.ts";
import {
  encodeAck,
  encodeDiskApplied,
  encodeDiskDurable,
  encodeGoodbyeOk,
  encodeHandoverRefused,
  encodeTakeover,
  encodeUnable,
  type Frame,
} from "../codec/replication-encode.ts";
import { type FrameIds, vmIdBytes } from "../codec/replication-header.ts";
import {
  type BackupEffect,
  type BackupEvent,
  type BackupState,
  startBackup,
  stepBackup,
} from "../core/backup.ts";
import { InvariantBroken } from "../core/transition.ts";
import type { Generation } from "../core/words.ts";
import { type Fingerprint, fingerprintMismatch, ramBlockName } from "../hypervisor/qemu/command-line.ts";
import { backupPreflight } from "../hypervisor/qemu/preflight.ts";
import type { QemuProcess } from "../hypervisor/qemu/process.ts";
import { prepareStandby, runStandby } from "../hypervisor/qemu/standby.ts";
import { ramKiB } from "../hypervisor/qemu/tcg-aids.ts";
import type { Connection } from "../link/connection.ts";
import { type Caller, type Listener, listen } from "../link/listen.ts";
import { BackupImages } from "../memory/backup-images.ts";
import type { WholeCheckpoint } from "../memory/checkpoint-buffer.ts";
import { StandbyTaps } from "../net/standby-taps.ts";
import { BackupDisks } from "./backup-disks.ts";
import { CheckpointIntake } from "./checkpoint-intake.ts";
import { Committer } from "./committer.ts";
import { type BackupConfig, otherRole } from "./config.ts";
import { monotonicMs } from "./monotonic.ts";
import { replicatedDisks } from "./owned-disks.ts";
import type { FailoverTimes, Post, RoleEnd } from "./role.ts";
import { type Ground, heed, machineOf, prepareGround, startQemu } from "./vm-process.ts";

const MIB = 1 << 20;
/** A planned switchover waits so long for the arbiter, with the VM paused. */
const HANDOVER_PATIENCE_MS = 2_000;
/** The primary has so long to read that the VM stays with it. */
const REFUSAL_HEARD_MS = 2_000;

interface Parts {
  readonly ground: Ground;
  readonly qemu: QemuProcess;
  readonly images: BackupImages;
}

export class BackupGuardian {
  /** Settles when the standby's process is gone, or has become the VM. */
  readonly done: Promise<RoleEnd>;
  private readonly finish: (end: RoleEnd) => void;
  private readonly post: Post<BackupConfig>;
  private readonly ground: Ground;
  private readonly qemu: QemuProcess;
  /** Hashes the boot files, so it is made once. */
  private readonly machine: Fingerprint;
  private readonly images: BackupImages;
  private readonly taps: StandbyTaps;
  private disks!: BackupDisks;
  private committer!: Committer;
  private intake!: CheckpointIntake;
  private listener: Listener | undefined;
  private state: BackupState;
  private connection: Connection | undefined;
  /** Whole in memory, and not acknowledged: those before them wait for their commit, and are enough of that (I6). */
  private unacknowledged: WholeCheckpoint[] = [];
  private whole: WholeCheckpoint | undefined;
  private failover: FailoverTimes | undefined;
  private session: string | undefined;
  private greeting = false;
  /** The primary was told that this host stands down from a switchover. */
  private refusedForGood = false;
  private quitting = false;
  /** The standby runs since the primary has handed the VM over. */
  private planned = false;
  /** The VM runs here and this host is its primary: the standby is not ours to watch any more. */
  private handedOn = false;
  /** The checkpoint from which the VM went on here. */
  private tookOverAt = 0;

  private constructor(post: Post<BackupConfig>, generation: Generation, { ground, qemu, images }: Parts) {
    const { promise, resolve } = Promise.withResolvers<RoleEnd>();
    const { config, log } = post;
    this.done = promise;
    this.finish = resolve;
    this.post = post;
    this.state = startBackup(generation);
    this.ground = ground;
    this.qemu = qemu;
    this.machine = machineOf(config, ground, qemu);
    this.images = images;
    this.taps = new StandbyTaps(config.vm.nics, join(config.runDirectory, "bridges.json"), (text) =>
      log.warn(text),
    );
    void this.qemu.exited.then((how) => this.standbyGone(how));
  }

  /** Preflight, images, standby, and an open door for the primary. Leaves nothing behind when it fails. */
  static async start(post: Post<BackupConfig>, generation?: Generation): Promise<BackupGuardian> {
    const { config, log, record } = post;
    const { vm, limits, imageDirectory } = config;
    const ground = await prepareGround(config, log);
    const { images: disks } = ground;
    heed(await backupPreflight(vm, { imageDirectory, stagingMiB: limits.stagingMiB, images: disks }), log);
    const path = join(imageDirectory, `${vm.name}.ram`);
    const images = BackupImages.create(path, ramBlockName, ramKiB(vm.memoryMiB, ground.accelerator) * 1024);
    let qemu: QemuProcess | undefined;
    try {
      qemu = await startQemu(config, ground, { role: "standby", ramFile: path });
      await prepareStandby(qemu.qmp);
      const guardian = new BackupGuardian(post, generation ?? record.state?.generation ?? 1, {
        ground,
        qemu,
        images,
      });
      await guardian.open();
      return guardian;
    } catch (error) {
      qemu?.kill();
      images.discard();
      throw error;
    }
  }

  private async open(): Promise<void> {
    const { config, control, log, record } = this.post;
    const { replication, vm, limits, timing, runDirectory } = config;
    await this.taps.park();
    const disks = replicatedDisks(vm);
    this.disks = await BackupDisks.open({
      qmp: this.qemu.qmp,
      runDirectory,
      disks,
      record,
      log: { folder: config.stateDirectory, vm: vm.name },
      onFailed: (reason) => this.feed({ type: "commit-failed", reason }),
      onDurable: (epoch) => this.send((ids) => encodeDiskDurable(ids, epoch)),
    });
    this.committer = new Committer(this.images, disks.length > 0 ? this.disks : undefined, (epoch) => {
      this.disks.committed(epoch);
      this.feed({ type: "committed", epoch });
      this.admit();
    });
    this.intake = new CheckpointIntake({
      images: this.images,
      disks: this.disks,
      // A guest that rewrites all its memory in one epoch sends all of it; of its disks it may write so much.
      limitBytes: (vm.memoryMiB * 1.1 + 128 + 4 * limits.diskMiB) * MIB,
      onWhole: (checkpoint) => {
        this.unacknowledged.push(checkpoint);
        this.admit();
      },
      onApplied: (totalBytes) => this.send((ids) => encodeDiskApplied(ids, totalBytes)),
    });
    await control.take({
      status: () => this.status(),
      "flush-disks": () => this.disks.flush(),
      quit: () => this.quit(),
    });
    const { host, port } = replication.listen;
    this.listener = await listen({
      address: host,
      port,
      vmId: vmIdBytes(vm.uuid),
      host: hostname(),
      generation: () => this.state.generation,
      onPrimary: (caller) => void this.greet(caller),
      onTurnedAway: ({ message, peer }) => log.warn(`${peer}: ${message}`),
      heartbeatMs: timing.heartbeatMs,
      detectionMs: timing.detectionMs,
      urgent: () => this.state.phase !== "filling",
      onSuspicion: (suspected) => {
        if (suspected && this.state.phase === "armed") void this.taps.open();
        if (!suspected && ["waiting", "filling", "armed"].includes(this.state.phase)) void this.taps.park();
      },
    });
    log.info(
      `standby for VM ${vm.name} is ready (QEMU ${this.qemu.qmp.version}); listening on ${host}:${port}`,
    );
    this.publish();
  }

  // Orders

  private status(): Record<string, unknown> {
    return {
      role: "backup",
      vm: this.post.config.vm.name,
      accelerator: this.ground.accelerator,
      qemuVersion: this.qemu.qmp.version,
      qemuPid: this.qemu.pid,
      ramImage: this.images.path,
      waitingBytes: this.committer.waitingBytes,
      longestStallMs: this.post.stalls.longestMs,
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
    if (this.handedOn) return;
    const asked = this.quitting;
    if (!asked) this.post.log.error(`the standby is gone: ${how}`);
    this.quitting = true;
    if (this.refusedForGood) await this.primaryHasClosed();
    // Without a standby this host must not ask for the VM: the primary is to hear at once that it is alone.
    this.closeLink();
    this.listener?.close();
    this.committer?.forget();
    this.disks?.close();
    this.images.discard();
    await this.taps.restore();
    this.finish({ kind: "exit", status: asked ? 0 : 1 });
  }

  private async primaryHasClosed(): Promise<void> {
    const { connection } = this;
    for (const end = performance.now() + REFUSAL_HEARD_MS; performance.now() < end; ) {
      if (connection === undefined || connection.closed !== undefined) return;
      await new Promise((again) => setTimeout(again, 5));
    }
  }

  private async greet(caller: Caller): Promise<void> {
    if (this.state.phase === "running" || (this.state.phase === "recovering" && !this.state.planned)) {
      caller.tellTakeover(this.tookOverAt);
      return;
    }
    const reason = this.whyNot(caller);
    if (reason !== undefined) {
      caller.refuse(reason);
      return;
    }
    this.greeting = true;
    try {
      const disks = await this.disks.images();
      this.welcome(caller, disks);
    } catch (error) {
      caller.refuse({ code: "disk", message: `the disk images here: ${(error as Error).message}` });
    } finally {
      this.greeting = false;
    }
  }

  private welcome(caller: Caller, disks: Awaited<ReturnType<BackupDisks["images"]>>): void {
    const { session } = caller.hello;
    this.session = session;
    this.intake.reset();
    this.disks.begin(session, caller.generation);
    const connection = caller.welcome(
      {
        onMessage: (message) => this.take(message),
        onClosed: ({ message }) => {
          if (this.connection === connection) this.primaryLost(message);
        },
        onSilent: (silentMs) => this.primaryLost(`nothing was heard from it for ${Math.round(silentMs)} ms`),
      },
      disks,
    );
    this.connection = connection;
    this.feed({ type: "session-opened", generation: caller.generation });
  }

  private whyNot({ hello, generation }: Caller): { code: string; message: string } | undefined {
    if (this.state.phase !== "waiting" || this.greeting)
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
      case "goodbye":
        this.feed({ type: "goodbye" });
        return;
      case "handover":
        this.failover = { detectedAtMs: monotonicMs() };
        this.feed({ type: "handover-asked", epoch: message.epoch });
        return;
      case "hash-ask":
        void this.answerHashes(message);
        return;
      default:
        this.intake.take(message);
    }
  }

  private async answerHashes({ range }: Extract<ReplicationMessage, { type: "hash-ask" }>): Promise<void> {
    try {
      const hashes = await this.disks.hashes(range);
      this.send((ids) => encodeHashes(ids, range, hashes));
    } catch (error) {
      this.post.log.error(`hashes of disk${range.disk}: ${(error as Error).message}`);
      this.feed({ type: "commit-failed", reason: (error as Error).message });
    }
  }

  /** Acknowledges what is whole, as long as the commits keep up. */
  private admit(): void {
    const limit = this.post.config.limits.commitMiB * MIB;
    while (this.unacknowledged.length > 0 && this.committer.waitingBytes <= limit) {
      this.whole = this.unacknowledged.shift()!;
      this.feed({ type: "checkpoint-whole", epoch: this.whole.epoch });
    }
  }

  private feed(event: BackupEvent): void {
    const before = this.state;
    let effects: readonly BackupEffect[];
    try {
      const step = stepBackup(this.state, event);
      this.state = step.state;
      effects = step.effects;
    } catch (error) {
      this.post.log.error(`${(error as Error).name}: ${(error as Error).message}`);
      if (!(error instanceof InvariantBroken)) throw error;
      this.quit();
      return;
    }
    for (const effect of effects) this.carryOut(effect);
    if (before.phase !== this.state.phase) this.publish();
    if (this.state.phase === "running") this.becomePrimary();
  }

  /** The VM is this host's now; what is left of the backup's role is taken down, but for the VM itself. */
  private becomePrimary(): void {
    if (this.handedOn || otherRole(this.post.config) === undefined) return;
    this.handedOn = true;
    this.listener?.close();
    this.finish({
      kind: "primary",
      takenOver: {
        generation: this.state.generation,
        qemu: this.qemu,
        ground: this.ground,
        ramFile: this.images.path,
        session: this.session,
        epoch: this.tookOverAt,
        planned: this.planned,
        failover: this.failover,
        cleanUp: async () => {
          this.images.discard();
          await this.taps.restore();
        },
      },
    });
  }

  // Effects

  private carryOut(effect: BackupEffect): void {
    switch (effect.type) {
      case "ack":
        if (this.whole?.epoch !== effect.epoch)
          throw new InvariantBroken("I1", `ack ${effect.epoch} without that checkpoint in memory`);
        this.send((ids) => encodeAck(ids, effect.epoch));
        return;
      case "commit":
        this.committer.add(this.whole!);
        return;
      case "drop-incomplete":
        this.intake.reset();
        this.unacknowledged = [];
        return;
      case "forget":
        this.intake.reset();
        this.unacknowledged = [];
        this.committer.forget();
        return;
      case "goodbye-ok":
        this.send(encodeGoodbyeOk);
        return;
      case "unable":
        this.sayLast(encodeUnable(this.ids(), effect.reason), effect.reason);
        return;
      case "refuse-handover": {
        // It is for the primary to close the link then: should the word be lost with it, the VM would be, too.
        this.refusedForGood = effect.stoodDown;
        this.send((ids) => encodeHandoverRefused(ids, effect.reason, effect.stoodDown));
        return;
      }
      case "close-link":
        this.closeLink();
        return;
      case "ask-arbiter":
        void this.taps.open();
        void this.askArbiter(effect.generation);
        if (this.state.phase === "arbitrating" && this.state.planned)
          setTimeout(() => this.feed({ type: "handover-expired" }), HANDOVER_PATIENCE_MS);
        return;
      case "takeover":
        this.tookOverAt = effect.epoch;
        this.sayLast(encodeTakeover(this.ids(), effect.epoch), "this host has taken over");
        return;
      case "run-standby":
        void this.runStandby(effect.epoch);
        return;
      case "report":
        this.post.log[effect.level](effect.text);
        this.post.control.publish({ kind: "report", level: effect.level, text: effect.text });
        return;
    }
  }

  /** A frame that must arrive, and then the end of the connection. */
  private sayLast(frame: Frame, why: string): void {
    const { connection } = this;
    this.connection = undefined;
    connection?.finish(frame, why);
  }

  private send(encode: (ids: FrameIds) => Frame): void {
    this.connection?.send(encode(this.ids()));
  }

  private closeLink(): void {
    const { connection } = this;
    this.connection = undefined;
    connection?.destroy("the backup has ended the session");
  }

  private async askArbiter(generation: number): Promise<void> {
    const verdict = await this.post.arbiter.ask(this.post.config.vm.uuid, generation, hostname());
    this.feed({ type: "verdict", ...verdict });
  }

  private async runStandby(epoch: number): Promise<void> {
    if (!("committed" in this.state) || this.state.committed !== epoch)
      throw new InvariantBroken(
        "I2",
        `the standby would run checkpoint ${epoch}, which is not in the images`,
      );
    this.tookOverAt = epoch;
    this.planned = this.state.phase === "recovering" && this.state.planned;
    try {
      await this.taps.open();
      await this.disks.release(this.state.generation);
      await runStandby(this.qemu.qmp, { ...this.images.composition(), device: this.committer.device });
      if (this.failover !== undefined) this.failover.runningAtMs = monotonicMs();
      this.feed({ type: "standby-runs" });
    } catch (error) {
      // Whoever hears of the failure may let the old copy run: this one must not come up late.
      this.qemu.kill();
      this.feed({ type: "standby-failed", reason: (error as Error).message });
    }
  }

  private publish(): void {
    const { phase, generation } = this.state;
    this.post.control.publish({ kind: "phase", role: "backup", phase, generation });
  }

  private ids(): FrameIds {
    return { vmId: vmIdBytes(this.post.config.vm.uuid), generation: this.state.generation };
  }
}
