/** A QEMU process: it runs the guest or waits as a standby, and is told what to do over its monitor. */
import { EventEmitter } from "node:events";
import type { Checker } from "./checker.ts";
import { type Frame, Guest, type Snapshot } from "./guest.ts";
import type { SimDisk } from "./storage.ts";
import type { Surroundings } from "./surroundings.ts";
import { Lane, type SimProcess } from "./time.ts";

/** Holding output, as QEMU sees it: where frames go. */
export interface Chain {
  arrive(frame: Frame): void;
  /** A fault. */
  fail(): void;
}

/** Copying disk writes: the disk thread's word that a write may be done, and that it is on record. */
export interface Mirror {
  /** False: there is no room for it at present, and the guest waits. */
  readonly ready: boolean;
  /** Notes the write, makes it, and copies it. */
  write(block: number, value: number): void;
  /** What was begun as a log is the log from here on. */
  useNewLog(): void;
  /** A fault. */
  fail(): void;
}

export interface CaptureSide {
  /** QEMU has died, or its stream has ended. */
  lost(reason: string): void;
}

/** The host that it runs on. */
export interface QemuHost {
  readonly name: string;
  readonly disk: SimDisk;
  /** It refuses this share of orders. */
  readonly refusals: number;
  /** The QEMU that was started last, while it lives. */
  qemu: SimQemu | undefined;
}

export interface QemuWorld extends Surroundings {
  readonly checker: Checker;
  readonly nature: {
    readonly guestStepMs: number;
    readonly diskShare: number;
    readonly hasDisk: boolean;
    readonly flushEvery: number;
  };
}

/** The monitor. Answers come a little later; none if QEMU hangs. */
export class SimQmp extends EventEmitter {
  readonly version = "7.2.0";
  readonly qemu: SimQemu;

  constructor(qemu: SimQemu) {
    super();
    this.qemu = qemu;
    this.setMaxListeners(0);
  }

  execute(command: string): Promise<Record<string, unknown>> {
    const answer = () => (command === "query-status" ? { running: this.qemu.running } : {});
    return this.qemu.command(answer, !command.startsWith("query-"));
  }

  readonly takesOob = true;

  /**
   * A QEMU that hangs here stands still altogether, as after SIGSTOP: the monitor of its own thread is
   * silent, too.
   */
  executeOob(command: string): Promise<Record<string, unknown>> {
    return this.execute(command);
  }
}

export class SimQemu {
  readonly host: QemuHost;
  readonly pid: number;
  readonly qmp: SimQmp;
  readonly watchdog: SimQmp;
  readonly standby: boolean;
  readonly exited: Promise<string>;
  readonly owner: SimProcess;
  guest: Guest | undefined;
  alive = true;
  /** It stands still. */
  hung = false;
  /** It waits for storage: SIGKILL ends its guest, and not its process. */
  unkillable = false;
  private killed = false;
  chain: Chain | undefined;
  mirror: Mirror | undefined;
  capture: CaptureSide | undefined;
  /** What takes the guest's writes, before QEMU sends any to it. */
  endpoint: Mirror | undefined;
  /** Dirty bitmaps that record, and copies of some. */
  readonly bitmaps = new Map<string, Set<number>>();
  readonly snapshots = new Map<string, Set<number>>();
  /** Devices that somebody has plugged in over another monitor, and since when. */
  plugged = 0;
  pluggedMs = 0;
  running = false;
  private flushing = true;
  /** When it was paused last. */
  pausedAtMs = 0;
  private loaded: { readonly snapshot: Snapshot; readonly pages: readonly number[] } | undefined;
  private readonly world: QemuWorld;
  private readonly events: Lane;
  private readonly exit: (how: string) => void;
  private waiting: (() => void)[] = [];
  private stepping = false;

  constructor(world: QemuWorld, host: QemuHost, owner: SimProcess, standby: boolean) {
    this.world = world;
    this.host = host;
    this.owner = owner;
    this.events = new Lane(owner, world.time);
    this.standby = standby;
    this.pid = world.nextNumber();
    this.qmp = new SimQmp(this);
    this.watchdog = new SimQmp(this);
    const { promise, resolve } = Promise.withResolvers<string>();
    this.exited = promise;
    this.exit = resolve;
    // setpriv --pdeathsig KILL
    owner.onDeath(() => this.die("its guardian has died"));
  }

  get processState(): string | undefined {
    if (!this.alive) return undefined;
    return this.hung ? "T" : "S";
  }

  /** What the monitor answers, or a rejection when QEMU is gone; or when it refuses, which no question is. */
  command<T>(answer: () => T, mayRefuse = true): Promise<T> {
    const { owner, world } = this;
    return new Promise((resolve, reject) => {
      const done = () => {
        if (!this.alive) reject(new Error("the monitor is closed"));
        else if (this.hung) this.waiting.push(() => owner.post(0, done));
        else if (mayRefuse && world.random.chance(this.host.refusals))
          reject(new Error("QEMU refuses: GenericError"));
        else resolve(answer());
      };
      owner.post(world.random.between(0.1, 1.5), done);
    });
  }

  /** Starts the guest from its disk. */
  boot(): void {
    const timeline = this.world.checker.boots(this.host.name, this.host.disk.blocks);
    this.guest = new Guest(timeline);
    this.run();
  }

  /** Takes a state in; the guest does not run yet. */
  load(snapshot: Snapshot, pages: readonly number[]): void {
    this.loaded = { snapshot, pages };
  }

  /** Runs the guest from the state that was loaded. */
  runLoaded(): void {
    if (this.loaded === undefined) throw new Error("nothing was loaded");
    const { snapshot, pages } = this.loaded;
    const timeline = this.world.checker.loads(this.host.name, snapshot, pages, this.host.disk.blocks);
    this.guest = new Guest(timeline, snapshot, pages);
    for (let page = 0; page < pages.length; page++) this.guest.dirty.add(page);
    this.run();
  }

  /** SIGKILL by its guardian. */
  kill(): void {
    if (!this.alive || this.killed) return;
    this.killed = true;
    const { committed } = this.world.checker;
    const backedUp = committed?.timeline === this.guest?.timeline && committed?.host !== this.host.name;
    // One that hangs is given up where the other host can go on.
    if (this.guest !== undefined && !(this.hung && backedUp))
      this.world.checker.killed(this.host.name, this.guest.timeline);
    if (!this.unkillable) this.die("QEMU ended (SIGKILL)");
    else this.world.note(this.host.name, "QEMU is killed, and its process waits for storage");
  }

  /** What its process has waited for has come. */
  killable(): void {
    this.unkillable = false;
    if (this.killed) this.die("QEMU ended (SIGKILL)");
    else this.unhang();
  }

  /** QEMU is gone, whatever the reason. Its guardian hears of the streams first, and then of the end. */
  die(how: string): void {
    if (!this.alive) return;
    this.alive = false;
    this.running = false;
    this.world.note(this.host.name, `QEMU is gone: ${how}`);
    if (this.guest !== undefined) this.world.checker.ended(this.guest.timeline);
    if (this.host.qemu === this) this.host.qemu = undefined;
    this.owner.post(this.world.random.between(0, 1), () => this.capture?.lost("QEMU closed the stream"));
    this.owner.post(this.world.random.between(1, 10), () => {
      this.exit(how);
      this.qmp.emit("closed");
    });
  }

  hang(): void {
    this.hung = true;
  }

  unhang(): void {
    this.hung = false;
    for (const one of this.waiting.splice(0)) one();
    this.goOn();
  }

  pause(): void {
    if (!this.running) return;
    this.running = false;
    this.pausedAtMs = this.world.time.now;
    this.event("STOP");
  }

  run(): void {
    if (!this.alive || this.running) return;
    this.running = true;
    this.event("RESUME");
    this.goOn();
  }

  /** What a protection has put in, and is to take out. */
  get leftovers(): readonly string[] {
    return [
      ...(this.chain === undefined ? [] : ["filters"]),
      ...(this.mirror === undefined ? [] : ["mirror"]),
    ];
  }

  /** Somebody changes the VM over another monitor. */
  plug(): void {
    if (this.guest === undefined || !this.alive) return;
    if (this.plugged++ === 0) this.pluggedMs = this.world.time.now;
  }

  unplug(): void {
    if (this.plugged === 0 || !this.alive) return;
    this.plugged = 0;
    this.event("DEVICE_DELETED");
  }

  /** A client's packet reaches the guest's card. */
  input(value: number): void {
    if (this.running && !this.hung) this.stepGuest(value);
  }

  private event(name: string): void {
    const us = Math.round(this.world.time.now * 1000);
    this.events.post(this.world.random.between(0.05, 0.3), () => this.qmp.emit(name, {}, us));
  }

  private goOn(): void {
    if (this.stepping || !this.running || this.hung) return;
    this.stepping = true;
    this.world.time.after(this.world.random.gap(this.world.nature.guestStepMs), () => {
      this.stepping = false;
      if (!this.alive || !this.running || this.hung) return;
      this.stepGuest(0);
      this.goOn();
    });
  }

  private stepGuest(input: number): void {
    const { guest, host, world } = this;
    if (guest === undefined) return;
    const writes = world.random.chance(world.nature.diskShare);
    // A write that nobody can take keeps the guest waiting: the disk thread stands still with its process.
    if (writes && this.mirror !== undefined && (this.owner.stopped || !this.mirror.ready)) return;
    const { block, flush, output } = guest.step(
      input,
      world.time.now,
      writes && world.nature.hasDisk,
      world.nature.flushEvery,
    );
    if (block !== undefined) this.writeBlock(block, guest.chain);
    if (flush) this.flushGuest(guest);
    if (output === undefined) return;
    if (this.chain !== undefined) this.chain.arrive(output);
    else world.checker.released(output, host.name);
  }

  /** With flushing off it is the other host's memory that makes it safe. */
  private flushGuest(guest: Guest): void {
    const { checker } = this.world;
    if (this.flushing) this.host.disk.flush();
    checker.flushed(guest, this.host.disk.blocks, !this.flushing);
    if (this.flushing) checker.hardened(guest.timeline);
  }

  /** Whether flushes of the guest's reach stable storage. */
  setFlushing(on: boolean): void {
    this.flushing = on;
    this.host.disk.flush();
    if (this.guest !== undefined) this.world.checker.hardened(this.guest.timeline);
  }

  /** All log bits from here on go into another log. QEMU flushes at the change, unless flushing is off. */
  changeLog(): void {
    if (this.flushing) this.host.disk.flush();
    this.endpoint?.useNewLog();
  }

  private writeBlock(block: number, value: number): void {
    const { checker } = this.world;
    checker.wrote(this.guest!, value);
    for (const blocks of this.bitmaps.values()) blocks.add(block);
    if (this.mirror === undefined) this.host.disk.write(block, value);
    else this.mirror.write(block, value);
  }
}
