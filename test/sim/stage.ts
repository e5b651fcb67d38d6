/**
 * A world with clients and a bystander in it, which whoever plays lets go on, mends, and asks how things
 * stand.
 */
import { subscribe } from "node:diagnostics_channel";
import { Committer } from "../../src/guardian/backup/committer.ts";
import type { WholeCheckpoint } from "../../src/memory/checkpoint-buffer.ts";
import { epochPointChannel } from "../../src/os/epoch-points.ts";
import { letEffectsFail } from "./effects.ts";
import type { BackupImages } from "./stand-ins/backup-images.ts";
import { beginGuardian } from "./world/guardian.ts";
import type { Host } from "./world/host.ts";
import { order, primaryOf } from "./world/operator.ts";
import { setWorld, theWorld } from "./world/present.ts";
import type { Random } from "./world/random.ts";
import { current, currentOrNone, installClocks } from "./world/time.ts";
import { type Nature, World } from "./world/world.ts";

/** After a single failure clients must be served again within this time. */
const SERVED_AGAIN_MS = 8_000;
/** A VM that nobody holds may be paused so long. */
const PAUSED_MS = 7_000;
/** A VM that has changed so that its backup cannot load it may count as protected so long. */
const CHANGED_MS = 4_000;
/** Once protection is said to have ended, nothing of it is in QEMU for longer than this. */
const LEFT_MS = 400;
/** A VM of which nothing was heard for so long will not start any more by itself. */
const STRANDED_MS = 8_000;

/** A host at which nothing goes wrong. */
const WELL = {
  diskFails: false,
  diskMs: undefined,
  syncFails: false,
  stateFull: false,
  filesGone: false,
  addressGone: false,
  loadFails: false,
  loadTakesMs: 0,
  refusals: 0,
  failingEffect: undefined,
  failingStep: false,
};

let installed = false;

function install(): void {
  if (installed) return;
  installed = true;
  installClocks();
  watchCommits();
  letEffectsFail();
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
    // One that has just died does nothing any more.
    if (current().alive)
      world.checker.commits(
        host.name,
        world.snapshotOf(checkpoint.device),
        this.images.pages,
        host.disk.blocks,
      );
    done.call(this, checkpoint);
  };
}

/**
 * Makes a world, plays in it, and leaves nothing of it behind. What goes wrong in `act` is the simulator's
 * own fault, and told as a violation.
 */
export function inWorld(
  random: Random,
  nature: Nature,
  keepTranscript: number,
  act: (stage: Stage) => void,
): World {
  install();
  const world = new World(random, nature, beginGuardian, keepTranscript);
  setWorld(world);
  try {
    act(new Stage(world));
  } catch (error) {
    world.bug("simulator", error);
  }
  world.ending = true;
  for (const host of world.hosts.values()) host.killGuardian();
  setWorld(undefined);
  return world;
}

export class Stage {
  readonly world: World;
  /** The operator has said stop. */
  stopped = false;
  /**
   * More than one thing has gone wrong; or just what a planned switchover cannot survive
   * (docs/specs/protocol.md).
   */
  mayBeStranded = true;

  /** Both hosts start, clients send. */
  constructor(world: World) {
    this.world = world;
    for (const [i, host] of [...world.hosts.values()].entries())
      world.time.after(world.nature.startsMs[i]!, () => host.startGuardian());
    this.clients();
    this.watch();
  }

  /** Everything is mended, started again, and left alone. */
  calmDown(): void {
    const { world } = this;
    world.calm = true;
    world.forget();
    for (const undo of world.healing.splice(0)) undo();
    for (const [link, quality] of world.network.quality.entries())
      Object.assign(quality, world.nature.links[link]);
    for (const { from, link, to } of world.network.ways) world.network.setUp(from, to, link, true);
    for (const member of world.witness.members) {
      member.on = true;
      member.writes = true;
      member.deafTo.clear();
    }
    for (const host of world.hosts.values()) {
      Object.assign(host, WELL, { syncMs: world.nature.syncMs, flushMs: world.nature.flushMs });
      host.powerOn();
      host.guardian?.resume(true);
      if (host.guardian?.alive !== true) host.startGuardian();
    }
    world.note("world", "all is mended; from here on nothing goes wrong");
  }

  /** An operator sees to it that protection is wanted, once in a while, until it is there. */
  protectOnOrder(): void {
    const { world } = this;
    const again = () => {
      if (this.world.ending || this.isProtected()) return;
      const host = primaryOf(world);
      if (host !== undefined) order(world, host, "protect");
      world.time.after(3000, again);
    };
    again();
  }

  /**
   * As a bystander sees it: a client is served by one host, and the other has just made the images of that
   * very VM.
   */
  isProtected(): boolean {
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
   * The VM is down, and the rules let neither host start it, after more than one failure: it was given to a
   * host that failed before it ran it; or that failed before what it ran it from was on stable storage
   * (docs/specs/protocol.md, "Starting").
   */
  isStranded(): boolean {
    const { checker, time, witness } = this.world;
    const { newest } = checker;
    if (newest === undefined || newest.alive || time.now - newest.endedMs < STRANDED_MS) return false;
    const claim = witness.newest;
    if (claim === undefined) return false;
    if (claim.host !== newest.host) return true;
    const isLost = this.world.host(newest.host).installedMs > newest.beganMs;
    return (isLost || newest.timeline.parent !== undefined) && this.ranLastAt() === undefined;
  }

  /** The host on which the VM ran last, if that has noted so. */
  ranLastAt(): Host | undefined {
    const { checker, hosts } = this.world;
    const host = hosts.get(checker.newest?.host ?? "");
    const record = host?.files.readSafe(`/${host.name}/state/vm1.json`) ?? "";
    return record.includes('"owner"') ? host : undefined;
  }

  pass(ms: number): void {
    const { time } = this.world;
    const end = time.now + ms;
    while (time.now < end && this.world.violation === undefined && time.step());
  }

  until(done: () => boolean, withinMs: number, otherwise: string): void {
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
      if (this.world.ending) return;
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
      if (this.world.ending) return;
      this.lookAtQueues();
      this.lookAtPauses();
      this.lookAtFitness();
      this.lookForLeftovers();
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
    const { world } = this;
    const { checker, hosts, heldUntilMs, time, witness } = world;
    for (const host of hosts.values()) {
      const { guardian, name, qemu } = host;
      const excused =
        qemu?.guest === undefined ||
        qemu.running ||
        qemu.hung ||
        guardian?.alive !== true ||
        guardian.stopped ||
        // Who has lost the other host waits for the arbiter, however long; who hands the VM over does not.
        (!witness.reaches(name) && world.phaseOf(name) === "primary arbitrating") ||
        time.now < heldUntilMs;
      if (excused) host.pausedSinceMs = undefined;
      // It may have run in between: checkpoints and looks can keep time with each other.
      else host.pausedSinceMs = Math.max(host.pausedSinceMs ?? time.now, qemu.pausedAtMs);
      if (host.pausedSinceMs !== undefined && time.now - host.pausedSinceMs > PAUSED_MS)
        checker.fail("I5", `the VM on ${name} has been paused for ${PAUSED_MS} ms, and nobody holds it`);
    }
  }

  /** Whatever was begun is undone whole. */
  private lookForLeftovers(): void {
    const { world } = this;
    const { checker, hosts, time } = world;
    for (const host of hosts.values()) {
      const { guardian, name, qemu } = host;
      const left = qemu?.guest === undefined ? [] : qemu.leftovers;
      const isOver = world.phaseOf(name) === "primary unprotected" && guardian?.alive === true;
      if (!isOver || guardian.stopped || left.length === 0) host.leftSinceMs = undefined;
      else host.leftSinceMs ??= time.now;
      if (host.leftSinceMs !== undefined && time.now - host.leftSinceMs > LEFT_MS)
        checker.fail("stop", `protection has ended on ${name}, and has left in QEMU: ${left.join(", ")}`);
    }
  }

  /** Nothing is protected that cannot be failed over: what changes on the VM ends protection. */
  private lookAtFitness(): void {
    const { checker, hosts, time } = this.world;
    const qemu = hosts.get(checker.newest?.host ?? "")?.qemu;
    if (qemu === undefined || qemu.plugged === 0 || time.now - qemu.pluggedMs < CHANGED_MS) return;
    if (this.isProtected())
      checker.fail("I4", `the VM has a device that its backup lacks, for ${CHANGED_MS} ms, and is protected`);
  }

  private lookAtService(): void {
    const { checker, onlyOneFailure, time } = this.world;
    if (this.mayBeStranded && this.isStranded()) return;
    // Whether it is stranded shows a little later than that nobody is served.
    const patienceMs = this.mayBeStranded ? 2 * SERVED_AGAIN_MS : SERVED_AGAIN_MS;
    if (onlyOneFailure && time.now - checker.lastReleaseMs > patienceMs)
      checker.fail("I4", `nobody was served for ${SERVED_AGAIN_MS} ms after a single failure`);
  }
}
