/** A host: power, stable storage, a clock, and a guardian that is started again when it ends. */
import type { Checker } from "./checker.ts";
import type { Network } from "./network.ts";
import type { QemuHost, SimQemu } from "./qemu.ts";
import { SimDisk, SimFiles } from "./storage.ts";
import type { Heard, Place, Surroundings } from "./surroundings.ts";
import { type ClockOfHost, SimProcess } from "./time.ts";

/** The control socket's other side (stand-ins/control.ts). */
export interface Ear {
  orders: Readonly<Record<string, (args: Record<string, unknown>, caller: unknown) => unknown>>;
}

export interface HostWorld extends Surroundings {
  readonly network: Network;
  readonly checker: Checker;
  readonly processes: Map<SimProcess, Host>;
  readonly ending: boolean;
  readonly nature: { readonly syncMs: number; readonly flushMs: number };
  /** A guardian's life, until its exit status. Called as code of its process. */
  begin(host: Host): Promise<number>;
  /** Production code has failed in a way that it calls impossible. */
  bug(host: string, error: unknown): void;
}

export class Host implements ClockOfHost, Place, QemuHost {
  readonly name: string;
  readonly files = new SimFiles();
  readonly disk = new SimDisk();
  on = true;
  guardian: SimProcess | undefined;
  /** The QEMU that this host's guardian has started last, while it lives. */
  qemu: SimQemu | undefined;
  ear: Ear | undefined;
  /** What this host's guardian heard last of the other. */
  heard: Heard | undefined;
  /** The role in its file, where that is not the one it was given at first. */
  fileRole: "primary" | "backup" | undefined;
  /** When it was installed anew: its disks are blank since, and its notes are gone. */
  installedMs = Number.NEGATIVE_INFINITY;
  /** Nobody starts the guardian again. */
  left = false;
  /** Faults that lie in wait. */
  private loadFailsSince: number | undefined;
  loadTakesMs = 0;
  diskFails = false;
  /** A request to its disk takes so long, at most; undefined: as everywhere. */
  diskMs: number | undefined;
  syncFails = false;
  /** Files cannot be written: there is no room. */
  stateFull = false;
  /** What reaches stable storage takes so long, at most. */
  syncMs: number;
  /** The same of its disk images, which may lie elsewhere than its notes. */
  flushMs: number;
  /** Files that the VM boots from are gone. */
  filesGone = false;
  /** Its addresses for replication are gone. */
  addressGone = false;
  /** Its QEMU refuses this share of orders. */
  refusals = 0;
  /** An effect of its guardian's will fail, of this type or of any, after so many that do not. */
  failingEffect: { readonly type: string | undefined; after: number } | undefined;
  /** The core of its guardian will fail at the next checkpoint that comes. */
  failingStep = false;
  /** Somebody has told its guardian to end. */
  endAsked = false;
  stoppedUntilMs = 0;
  /** So long it has been suspended, by its own clock. */
  private suspendedMs = 0;
  /** Since when a protection that is over has left something in its QEMU. */
  leftSinceMs: number | undefined;
  /** Since when its guest has been neither running nor excused. */
  pausedSinceMs: number | undefined;
  private readonly world: HostWorld;
  private readonly rate: number;
  private readonly offsetMs: number;
  wallOffsetMs = 0;

  constructor(world: HostWorld, name: string) {
    this.world = world;
    this.name = name;
    const { random } = world;
    this.rate = 1 + random.between(-1, 1) * random.pick([0, 1e-5, 1e-3, 1e-2]);
    this.offsetMs = random.below(1e6);
    this.syncMs = world.nature.syncMs;
    this.flushMs = world.nature.flushMs;
  }

  /** Its standby cannot load a state. */
  get loadFails(): boolean {
    return this.loadFailsSince !== undefined;
  }

  set loadFails(fails: boolean) {
    this.loadFailsSince = fails ? (this.loadFailsSince ?? this.world.time.now) : undefined;
  }

  get loadFailsSinceMs(): number | undefined {
    return this.loadFailsSince;
  }

  get safeRecord(): string | undefined {
    return this.files.readSafe(`/${this.name}/state/vm1.json`);
  }

  get safeBlocks(): readonly number[] {
    return this.disk.onStableStorage;
  }

  get blocks(): readonly number[] {
    return this.disk.blocks;
  }

  get loggedBlocks(): ReadonlySet<number> {
    return new Set(this.disk.logs.flatMap(({ blocks }) => [...blocks]));
  }

  monotonicMs(): number {
    return this.offsetMs + this.world.time.now * this.rate;
  }

  activeMs(): number {
    return this.monotonicMs() - this.suspendedMs;
  }

  /** Its memory stays, its processes and CLOCK_MONOTONIC stand; CLOCK_BOOTTIME goes on. */
  suspend(ms: number): void {
    const { guardian, qemu, world } = this;
    if (guardian?.alive !== true || guardian.stopped) return;
    world.count("hosts that were suspended");
    const began = this.monotonicMs();
    guardian.suspend();
    qemu?.hang();
    this.stoppedUntilMs = world.time.now + ms;
    world.time.after(ms, () => {
      if (guardian.stopped) this.suspendedMs += this.monotonicMs() - began;
      guardian.resume(world.random.chance(0.5));
      qemu?.unhang();
    });
  }

  worldMs(ms: number): number {
    return ms / this.rate;
  }

  wallMs(): number {
    return 1.7e12 + this.world.time.now + this.wallOffsetMs;
  }

  startGuardian(): void {
    const { world } = this;
    if (!this.on || this.guardian?.alive === true || this.left || world.ending) return;
    const process = new SimProcess(`guardian ${this.name}`, world.time, this, (error) => {
      world.bug(this.name, error);
      process.kill();
    });
    world.processes.set(process, this);
    this.guardian = process;
    this.endAsked = false;
    world.note(this.name, "the guardian starts");
    process.onDeath(() => {
      if (this.guardian !== process) return;
      this.ear = undefined;
      if (this.on) world.time.after(world.random.between(300, 1500), () => this.startGuardian());
    });
    process.run(() => {
      world.begin(this).then(
        (status) => this.exit(process, `exit status ${status}`),
        (error: Error) => this.exit(process, error.message),
      );
    });
  }

  /** It ends by itself; and whatever QEMU it has, with it. */
  private exit(process: SimProcess, how: string): void {
    const { qemu, world } = this;
    world.note(this.name, `the guardian ends: ${how}`);
    if (process.alive && qemu?.guest !== undefined && qemu.owner === process)
      world.checker.killed(this.name, qemu.guest.timeline, `has ended with its guardian (${how})`);
    process.kill();
  }

  killGuardian(): void {
    this.guardian?.kill();
  }

  /** SIGSTOP for so long. */
  stopGuardian(ms: number): void {
    const { guardian, world } = this;
    if (guardian?.alive !== true || guardian.stopped) return;
    guardian.stop();
    this.stoppedUntilMs = world.time.now + ms;
    world.time.after(ms, () => {
      guardian.resume(world.random.chance(0.5));
    });
  }

  powerOff(): void {
    if (!this.on) return;
    const { random, network } = this.world;
    this.on = false;
    const { qemu } = this;
    // A write that was under way: on record, perhaps on the disk, and nowhere else.
    if (
      qemu?.guest !== undefined &&
      qemu.mirror !== undefined &&
      this.disk.logs.length > 0 &&
      random.chance(0.5)
    ) {
      const block = random.below(this.disk.blocks.length);
      this.disk.logs.at(-1)!.blocks.add(block);
      if (random.chance(0.5)) {
        qemu.guest.step(1, this.world.time.now, true, 0);
        this.world.checker.wrote(qemu.guest, qemu.guest.chain);
        this.disk.write(block, qemu.guest.chain);
      }
    }
    network.powerFails(this.name);
    this.killGuardian();
    network.powerFails(this.name);
    this.guardian = undefined;
    this.files.powerFails(random);
    this.disk.powerFails(random);
  }

  /** Its power is off, and all that was on its disks is gone. */
  installAnew(): void {
    this.files.clear();
    this.disk.clear();
    this.installedMs = this.world.time.now;
  }

  powerOn(): void {
    if (this.on) return;
    this.on = true;
    this.world.note(this.name, "the power is back");
    this.world.time.after(this.world.random.between(100, 800), () => this.startGuardian());
  }
}
