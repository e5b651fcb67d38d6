/**
 * A test failover: a clone of the VM at a whole checkpoint runs on the backup's host, cut off from
 * everything, while protection goes on. It is looked at and dropped (docs/specs/test-failover.md).
 *
 * It is nobody's VM: no invariant depends on it, and whatever happens to it, protection comes first. So
 * `drop` waits for nothing.
 */

import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { ComposedFrom } from "../../codec/migration-compose.ts";
import type { BackupState } from "../../core/backup.ts";
import type { EpochId } from "../../core/words.ts";
import { FrozenDisks } from "../../disk/frozen-disks.ts";
import { startClone } from "../../hypervisor/qemu/clone.ts";
import type { QemuProcess } from "../../hypervisor/qemu/process.ts";
import { loadStandby, runStandby } from "../../hypervisor/qemu/standby.ts";
import { makeRamFile } from "../../memory/ram-file.ts";
import type { Mapping } from "../../os/mapping.ts";
import type { BackupConfig } from "../config/config.ts";
import type { Context } from "../context.ts";
import type { ArgumentsOf, CloneStatus } from "../control/orders.ts";
import { OrderRefused } from "../control/refusal.ts";
import type { BackupDisks } from "../disks/backup-disks.ts";
import type { HostEnvironment } from "../host-environment.ts";
import type { HeldCheckpoints } from "./held-checkpoints.ts";
import { whyDiskFull, whyNoRoom } from "./test-failover-room.ts";

/**
 * RAM is copied so many pages at a time, with a rest between: a millisecond of work, and commits and
 * heartbeats have their turns.
 */
const COPY = { pages: 256, restMs: 2 };
const WATCH_EVERY_MS = 500;
const SERIAL_TAIL_BYTES = 4096;

export interface TestFailoverParts {
  readonly context: Context<BackupConfig>;
  readonly environment: HostEnvironment;
  readonly held: HeldCheckpoints;
  readonly disks: BackupDisks;
  readonly state: () => BackupState;
}

/** What there is of a clone, in the order in which it comes about. */
interface Clone {
  readonly dropped: PromiseWithResolvers<never>;
  readonly places: ReturnType<typeof placesOf>;
  /** What can be made before the instant is being made. */
  room?: Promise<void>;
  ram?: Mapping;
  frozen?: FrozenDisks;
  launched?: Promise<QemuProcess>;
  qemu?: QemuProcess;
  epoch?: EpochId;
  running: boolean;
  watch?: NodeJS.Timeout;
}

export class TestFailover {
  private readonly parts: TestFailoverParts;
  private clone: Clone | undefined;
  /** Why the last one is no more. */
  private lastEnd: string | undefined;
  private cleaned: Promise<void> = Promise.resolve();

  constructor(parts: TestFailoverParts) {
    this.parts = parts;
  }

  /** The order `test-failover`. */
  order({ action }: ArgumentsOf<"test-failover">): Promise<CloneStatus> {
    switch (action) {
      case "start":
        return this.start();
      case "status":
        return this.status();
      case "stop":
        return this.stop();
    }
  }

  /** Ends the clone, at once: what is left of it goes when it can. Does nothing without one. */
  drop(reason: string): void {
    const { clone, parts } = this;
    if (clone === undefined) return;
    this.clone = undefined;
    this.lastEnd = reason;
    clone.qemu?.kill();
    parts.held.whenWhole(undefined);
    parts.disks.keepBeforeChange(undefined);
    parts.held.images.endCopy();
    clearInterval(clone.watch);
    clone.dropped.reject(new Error(reason));
    this.cleaned = this.cleanUp(clone).catch((error: Error) =>
      parts.context.log.warn(`what is left of the test failover's clone: ${error.message}`),
    );
    this.tell(`the test failover's clone is dropped: ${reason}`);
  }

  private async start(): Promise<CloneStatus> {
    const { parts } = this;
    if (this.clone !== undefined)
      throw new OrderRefused(
        "already-running",
        "a test failover is under way; stop it before you start another",
      );
    this.refuseUnarmed();
    const shared = parts.context.config.vm.disks.findIndex(({ storage }) => storage === "shared");
    if (shared >= 0)
      throw new OrderRefused(
        "shared-disk",
        `vm.disks[${shared}] is shared storage: the VM goes on changing it, so it is never what it was at a checkpoint. Only a VM whose disks are all replicated can be cloned`,
      );
    const dropped = Promise.withResolvers<never>();
    dropped.promise.catch(() => {});
    const clone: Clone = { dropped, places: placesOf(parts.context.config), running: false };
    this.clone = clone;
    try {
      await this.begin(clone);
      return await this.status();
    } catch (error) {
      if (this.clone === clone) this.drop((error as Error).message);
      await this.cleaned;
      if (error instanceof OrderRefused) throw error;
      throw new OrderRefused("failed", `there is no clone: ${(error as Error).message}`);
    }
  }

  private async begin(clone: Clone): Promise<void> {
    const { places } = clone;
    const { environment, context } = this.parts;
    const soon = async <T>(work: Promise<T>): Promise<T> => {
      const result = await Promise.race([work, clone.dropped.promise]);
      if (this.clone !== clone) throw new Error(this.lastEnd);
      return result;
    };
    await soon(this.cleaned);
    clone.room = this.makeRoom(clone);
    await soon(clone.room);
    clone.launched = startClone(context.config.vm, { accelerator: environment.accelerator, ...places });
    const [qemu, composition] = await soon(Promise.all([clone.launched, this.takeCheckpoint(clone)]));
    clone.qemu = qemu;
    void qemu.exited.then((how) => {
      if (this.clone === clone) this.drop(`it has ended: ${how}`);
    });
    // QEMU has it open: it needs no name any more.
    await soon(rm(places.ramFile));
    await soon(loadStandby(qemu.qmp, composition));
    await soon(runStandby(qemu.qmp));
    clone.running = true;
    this.watch(clone);
    this.tell(`a clone of checkpoint ${clone.epoch} runs, cut off from everything (process ${qemu.pid})`);
  }

  /** Everything that can be made before the instant. */
  private async makeRoom(clone: Clone): Promise<void> {
    const { places } = clone;
    const { disks, held, context } = this.parts;
    await this.sweep();
    await mkdir(places.diskFolder, { recursive: true, mode: 0o700 });
    await mkdir(places.runDirectory, { recursive: true, mode: 0o700 });
    const why = await whyNoRoom({
      ramMiB: Math.ceil(held.images.ramBytes / 2 ** 20),
      imageDirectory: context.config.imageDirectory,
      diskFolder: disks.readers.size === 0 ? undefined : places.diskFolder,
    });
    if (why !== undefined) throw new OrderRefused("no-room", why);
    const frozen = await FrozenDisks.open({
      images: disks.readers,
      folder: places.diskFolder,
      socketPath: places.places.diskSocket,
      onBroken: (reason) => {
        if (this.clone === clone) this.drop(reason);
      },
    });
    if (this.clone !== clone) {
      await frozen.drop();
      return;
    }
    clone.frozen = frozen;
    clone.ram = await makeRamFile(places.ramFile, held.images.ramBytes);
  }

  /**
   * Takes the next instant at which the images are at a whole checkpoint, and copies the RAM of that instant.
   */
  private async takeCheckpoint(clone: Clone): Promise<ComposedFrom> {
    const { disks, held } = this.parts;
    const { frozen, ram } = clone;
    const { promise, resolve } = Promise.withResolvers<ComposedFrom>();
    this.refuseUnarmed();
    let copyOn = (_pages: number) => true;
    held.whenWhole((epoch) => {
      clone.epoch = epoch;
      const snapshot = held.images.beginCopy(ram!.bytes);
      copyOn = (pages) => snapshot.copyOn(pages);
      disks.keepBeforeChange((disk, offset, length) => frozen!.keep(disk, offset, length));
      const { side, ...rest } = held.composition();
      resolve({
        ...rest,
        side: side.map(({ block, contents }) => ({ block, contents: contents.slice() })),
      });
    });
    const composition = await promise;
    while (this.clone === clone && !copyOn(COPY.pages)) await pause(COPY.restMs);
    if (this.clone === clone) held.images.endCopy();
    return composition;
  }

  private watch(clone: Clone): void {
    if (this.parts.disks.readers.size === 0) return;
    const look = async () => {
      const why = await whyDiskFull(clone.places.diskFolder);
      if (why !== undefined && this.clone === clone) this.drop(why);
    };
    clone.watch = setInterval(() => void look().catch(() => {}), WATCH_EVERY_MS);
  }

  private async status(): Promise<CloneStatus> {
    const { clone, lastEnd } = this;
    if (clone === undefined) return { state: "none", ...(lastEnd === undefined ? {} : { lastEnd }) };
    const { epoch, frozen, places, qemu, running } = clone;
    const { monitorSocket, serialLog, serialSocket, vncSocket } = places.places;
    if (!running || qemu === undefined) return { state: "starting" };
    const { status } = await qemu.qmp.execute<{ status: string }>("query-status");
    return {
      state: "running",
      checkpoint: epoch!,
      generation: this.parts.state().generation,
      guest: status,
      pid: qemu.pid,
      network: `/proc/${qemu.pid}/ns/net`,
      qmp: monitorSocket,
      vnc: vncSocket,
      serial: serialSocket,
      serialLog,
      serialTail: await tail(serialLog),
      keptBytes: frozen?.keptBytes ?? 0,
    };
  }

  private async stop(): Promise<CloneStatus> {
    this.drop("as asked");
    await this.cleaned;
    return this.status();
  }

  private refuseUnarmed(): void {
    const { phase } = this.parts.state();
    if (phase !== "armed")
      throw new OrderRefused(
        "wrong-state",
        `the backup is ${phase}; a clone is made of a whole checkpoint, which there is while the VM is protected`,
      );
  }

  private async cleanUp(clone: Clone): Promise<void> {
    await clone.room?.catch(() => {});
    const { frozen, launched, places, ram } = clone;
    ram?.close();
    await frozen?.drop();
    const qemu = await launched?.catch(() => undefined);
    qemu?.kill();
    await qemu?.exited;
    await this.sweep(places);
  }

  /** Also what a guardian that was killed has left. */
  async sweep({ diskFolder, ramFile, runDirectory } = placesOf(this.parts.context.config)): Promise<void> {
    await rm(ramFile, { force: true });
    for (const folder of [runDirectory, diskFolder]) await rm(folder, { recursive: true, force: true });
  }

  private tell(text: string): void {
    const { control, log } = this.parts.context;
    log.info(text);
    control.publish({ kind: "report", level: "info", text });
  }
}

/** Sockets' paths are short: the folder that they are in has a short name. */
function placesOf({ imageDirectory, runDirectory, stateDirectory, vm }: BackupConfig) {
  const folder = join(runDirectory, "test");
  const diskFolder = join(stateDirectory, `${vm.name}.test`);
  return {
    runDirectory: folder,
    diskFolder,
    ramFile: join(imageDirectory, `${vm.name}.test.ram`),
    places: {
      monitorSocket: join(folder, "monitor.sock"),
      vncSocket: join(folder, "vnc.sock"),
      serialSocket: join(folder, "serial.sock"),
      diskSocket: join(folder, "disks.sock"),
      serialLog: join(diskFolder, "serial.log"),
    },
  };
}

async function tail(path: string): Promise<string> {
  const file = await open(path).catch(() => undefined);
  if (file === undefined) return "";
  try {
    const { size } = await file.stat();
    const buffer = Buffer.alloc(Math.min(size, SERIAL_TAIL_BYTES));
    await file.read(buffer, 0, buffer.length, size - buffer.length);
    return buffer.toString("utf8");
  } finally {
    await file.close();
  }
}
