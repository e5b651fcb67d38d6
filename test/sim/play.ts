/** Plays one seed: a world is made, the VM is protected, things go wrong, things are mended; and at every step it is judged. */
import { subscribe } from "node:diagnostics_channel";
import { Committer } from "../../src/guardian/committer.ts";
import type { WholeCheckpoint } from "../../src/memory/checkpoint-buffer.ts";
import { epochPointChannel } from "../../src/os/epoch-points.ts";
import type { BackupImages } from "./stand-ins/backup-images.ts";
import type { Violation } from "./world/checker.ts";
import { FAULTS, SINGLE, STEPS, strike } from "./world/faults.ts";
import { order, primaryOf } from "./world/operator.ts";
import { setWorld, theWorld } from "./world/present.ts";
import { Random } from "./world/random.ts";
import { current, currentOrNone, installClocks } from "./world/time.ts";
import { type Nature, World } from "./world/world.ts";

export interface Played {
  readonly seed: number;
  readonly violation: string | undefined;
  readonly transcript: readonly string[];
  readonly seen: Readonly<Record<string, number>>;
  readonly simulatedMs: number;
  readonly events: number;
}

export interface PlayOptions {
  readonly seed: number;
  /** Of bad times, at most; a short world without it. */
  readonly hours?: number;
  readonly keepTranscript?: number;
}

/** After the last fault, the VM must be protected and heard of within this time. A try to protect again may be a minute off (docs/specs/protocol.md). */
const PROTECTED_AGAIN_MS = 100_000;
/** After a single failure clients must be served again within this time. */
const SERVED_AGAIN_MS = 8_000;
const BEGIN_MS = 20_000;

let installed = false;

function install(): void {
  if (installed) return;
  installed = true;
  installClocks();
  watchCommits();
  process.on("unhandledRejection", (error) => theWorld().bug(currentOrNone()?.name ?? "world", error));
  subscribe(epochPointChannel, (point) => {
    const world = theWorld();
    world.step(world.hostOf(currentOrNone()!).name, String(point));
  });
}

/** Whoever says that a checkpoint is in the images is asked for them. */
function watchCommits(): void {
  interface Inside {
    done(checkpoint: WholeCheckpoint): void;
    readonly images: BackupImages;
  }
  const inside = Committer.prototype as unknown as Inside;
  const { done } = inside;
  inside.done = function (this: Inside, checkpoint: WholeCheckpoint): void {
    const world = theWorld();
    const host = world.hostOf(current());
    world.checker.commits(host.name, world.snapshotOf(checkpoint.device), this.images.pages, host.disk.blocks);
    done.call(this, checkpoint);
  };
}

export function play({ seed, hours, keepTranscript = 400 }: PlayOptions): Played {
  install();
  const random = new Random(seed);
  const world = new World(random, natureOf(random), keepTranscript);
  setWorld(world);
  try {
    new Run(world, hours === undefined ? undefined : hours * 3_600_000).play();
  } catch (error) {
    world.bug("simulator", error);
  }
  world.ending = true;
  const violation: Violation | undefined = world.violation;
  const played = {
    seed,
    violation: violation?.message,
    transcript: world.transcript,
    seen: Object.fromEntries(world.seen),
    simulatedMs: world.time.now,
    events: world.time.events,
  };
  for (const host of world.hosts.values()) host.killGuardian();
  setWorld(undefined);
  return played;
}

function natureOf(random: Random): Nature {
  const link = () => ({
    latencyMs: random.pick([0.1, 0.1, 0.3, 2, 15]),
    jitterMs: random.pick([0.05, 0.05, 1, 5]),
    bytesPerMs: random.pick([100_000, 100_000, 10_000, 2_000]),
    bufferBytes: random.pick([1_000_000, 200_000, 30_000]),
  });
  return {
    links: [link()],
    witnessMembers: random.pick([1, 3]),
    datagrams: {
      loss: random.pick([0, 0, 0.02, 0.1]),
      duplication: random.pick([0, 0.05]),
      delayMs: random.pick([0.5, 2, 20]),
      longMs: 800,
      longShare: random.pick([0, 0.02]),
    },
    guestStepMs: random.pick([5, 8, 12]),
    clientMs: random.pick([10, 20, 40]),
    diskShare: random.pick([0.1, 0.3, 0.6]),
    diskMs: random.pick([0.3, 0.3, 2, 8]),
    firstPassMs: random.pick([20, 60, 300]),
    intervalMs: 25,
    maxInFlight: random.pick([8, 8, 2]),
    detectionMs: 200,
    retryMs: random.pick([2000, 500]),
    protectAtStart: random.chance(0.5),
  };
}

class Run {
  private readonly world: World;
  private readonly hoursMs: number | undefined;
  private over = false;
  /** The operator has said stop. */
  private stopped = false;

  constructor(world: World, hoursMs: number | undefined) {
    this.world = world;
    this.hoursMs = hoursMs;
  }

  play(): void {
    const { world } = this;
    const { random } = world;
    for (const host of world.hosts.values()) {
      host.disk.flush();
      world.time.after(random.between(0, 100), () => host.startGuardian());
    }
    this.clients();
    this.watch();
    if (!world.nature.protectAtStart) this.protectOnOrder();
    this.until(() => this.isProtected(), BEGIN_MS, "the VM is not protected in a world where nothing has gone wrong");
    const style = this.hoursMs !== undefined ? "long" : random.pick(["one", "one", "few", "few", "storm"]);
    world.count(`runs: ${style}`);
    if (style === "one") this.oneFailure();
    else if (style === "few") this.badTimes(random.between(1500, 6000), 1200, 2500);
    else if (style === "storm") this.badTimes(random.between(1500, 4000), 250, 1500);
    else this.long(this.hoursMs!);
    this.goodTimes();
  }

  /** One thing goes wrong, at any instant or step, perhaps while an order is carried out. */
  private oneFailure(): void {
    const { world } = this;
    const { random } = world;
    world.onlyOneFailure = true;
    const name = random.pick(SINGLE);
    const host = world.host(random.pick(["A", "B"]));
    let struck = false;
    const now = () => {
      if (struck) return;
      struck = true;
      world.forget();
      strike(world, name, host);
    };
    if (random.chance(0.5)) world.at(random.pick(STEPS), random.below(4), now);
    else world.time.after(random.between(0, 600), now);
    if (random.chance(0.4)) world.time.after(random.between(0, 300), () => this.anOrder());
    this.pass(700);
    now();
    this.pass(random.between(2500, 5000));
  }

  /** @param faultMs from one fault to the next, on average; likewise orders */
  private badTimes(ms: number, faultMs: number, orderMs: number): void {
    const { world } = this;
    const { random } = world;
    const names = Object.keys(FAULTS);
    const fault = () => {
      if (world.calm) return;
      const name = random.pick(names);
      const host = world.host(random.pick(["A", "B"]));
      if (random.chance(0.4)) world.at(random.pick(STEPS), random.below(6), () => world.calm || strike(world, name, host));
      else strike(world, name, host);
      world.time.after(random.gap(faultMs), fault);
    };
    const orders = () => {
      if (world.calm) return;
      this.anOrder();
      world.time.after(random.gap(orderMs), orders);
    };
    world.time.after(random.gap(faultMs), fault);
    world.time.after(random.gap(orderMs), orders);
    this.pass(ms);
  }

  /** Bad times and good ones in turn. */
  private long(ms: number): void {
    const { world } = this;
    const end = world.time.now + ms;
    while (world.time.now < end && world.violation === undefined) {
      this.badTimes(world.random.between(2000, 10_000), world.random.pick([300, 1500]), 2000);
      this.goodTimes();
      world.calm = false;
      this.pass(world.random.between(500, 3000));
    }
  }

  private anOrder(): void {
    const { world } = this;
    const host = primaryOf(world);
    if (host === undefined) return;
    const name = world.random.pick(["switchover", "switchover", "stop", "hold", "protect", "protect"]);
    // Who has said stop has a VM on one host.
    if (name === "stop") world.onlyOneFailure = false;
    if (name === "stop") this.stopped = true;
    order(world, host, name);
  }

  /** Everything is mended, started again, and left alone. */
  private calmDown(): void {
    const { world } = this;
    world.calm = true;
    world.forget();
    for (const undo of world.healing.splice(0)) undo();
    for (const host of world.hosts.values()) {
      host.powerOn();
      host.guardian?.resume(true);
      if (host.guardian?.alive !== true) host.startGuardian();
    }
    world.note("world", "all is mended; from here on nothing goes wrong");
  }

  /** Liveness: within a bound the VM is protected, and clients are served. */
  private goodTimes(): void {
    const { world } = this;
    this.calmDown();
    world.onlyOneFailure = false;
    // Who has not said stop need not ask again.
    if (this.stopped) this.protectOnOrder();
    this.until(
      () => this.isProtected() || this.isStranded(),
      PROTECTED_AGAIN_MS,
      "all is mended, and the VM is not protected, or nobody is served",
    );
    if (this.isStranded()) world.count("ended stranded: nobody but an operator may start the VM");
    else this.pass(150);
  }

  /** An operator sees to it that protection is wanted, once in a while, until it is there. */
  private protectOnOrder(): void {
    const { world } = this;
    const again = () => {
      if (this.over || this.isProtected()) return;
      const host = primaryOf(world);
      if (host !== undefined) order(world, host, "protect");
      world.time.after(3000, again);
    };
    again();
  }

  /** As a bystander sees it: a client is served by one host, and the other has just made the images of that very VM. */
  private isProtected(): boolean {
    const { checker, time } = this.world;
    const { committed, last, newest } = checker;
    if (committed === undefined || last === undefined || newest === undefined) return false;
    return (
      newest.alive &&
      committed.timeline === newest.timeline &&
      committed.host !== newest.host &&
      time.now - committed.at < 300 &&
      last.timeline === newest.timeline &&
      time.now - checker.lastReleaseMs < 300
    );
  }

  /**
   * The VM is down, and the rules let neither host start it, after more than one failure: it was given to a host that failed before it ran it; or that failed before what
   * it ran it from was on stable storage (docs/specs/protocol.md, "Starting").
   */
  private isStranded(): boolean {
    const { checker, hosts, time, witness } = this.world;
    const { newest } = checker;
    if (newest === undefined || newest.alive || time.now - newest.endedMs < 8000) return false;
    const claim = witness.newest;
    if (claim === undefined) return false;
    if (claim.host !== newest.host) return true;
    const record = hosts.get(newest.host)!.files.readSafe(`/${newest.host}/state/vm1.json`) ?? "";
    return newest.timeline.parent !== undefined && !record.includes('"owner"');
  }

  private pass(ms: number): void {
    const { time } = this.world;
    const end = time.now + ms;
    while (time.now < end && this.world.violation === undefined && time.step());
  }

  private until(done: () => boolean, withinMs: number, otherwise: string): void {
    const { checker, time } = this.world;
    const end = time.now + withinMs;
    let look = time.now;
    while (this.world.violation === undefined) {
      if (time.now >= look) {
        if (done()) return;
        look = time.now + 20;
      }
      if (time.now > end) {
        checker.fail("liveness", `${otherwise} (after ${Math.round(withinMs / 1000)} s)`);
        return;
      }
      if (!time.step()) throw new Error("the world stands still");
    }
  }

  /** Clients send, whoever is there. */
  private clients(): void {
    const { world } = this;
    let request = 1;
    const send = () => {
      if (this.over) return;
      request++;
      for (const { on, qemu } of world.hosts.values()) if (on) qemu?.input(request);
      world.time.after(world.random.gap(world.nature.clientMs), send);
    };
    send();
  }

  /** Looks at what must hold for long, and not at one instant. */
  private watch(): void {
    const { world } = this;
    const look = () => {
      if (this.over) return;
      this.lookAtQueues();
      this.lookAtPauses();
      this.lookAtService();
      world.time.after(250, look);
    };
    look();
  }

  private lookAtQueues(): void {
    const { checker, network } = this.world;
    for (const { host, queued, unsentBytes } of network.sockets)
      if (queued > 600 || unsentBytes > 4 << 20)
        checker.fail("I6", `${queued} frames, ${unsentBytes} bytes wait to be sent on ${host}`);
  }

  /** A VM that nobody holds is not paused for long, whatever fails beside it (I5). */
  private lookAtPauses(): void {
    const { checker, hosts, heldUntilMs, time, witness } = this.world;
    for (const host of hosts.values()) {
      const { guardian, name, qemu } = host;
      const excused =
        qemu?.guest === undefined ||
        qemu.running ||
        qemu.hung ||
        guardian?.alive !== true ||
        guardian.stopped ||
        !witness.reaches(name) ||
        time.now < heldUntilMs;
      if (excused) host.pausedSinceMs = undefined;
      else host.pausedSinceMs ??= time.now;
      if (host.pausedSinceMs !== undefined && time.now - host.pausedSinceMs > 7000)
        checker.fail("I5", `the VM on ${name} has been paused for 7 s, and nobody holds it`);
    }
  }

  private lookAtService(): void {
    const { checker, onlyOneFailure, seen, time } = this.world;
    // What protocol.md says of a switchover whose new owner dies between the arbiter's word and TAKEOVER.
    if (seen.has("order: switchover") && this.isStranded()) return;
    if (onlyOneFailure && time.now - checker.lastReleaseMs > SERVED_AGAIN_MS)
      checker.fail("I4", `nobody was served for ${SERVED_AGAIN_MS} ms after a single failure`);
  }

  end(): void {
    this.over = true;
  }
}
