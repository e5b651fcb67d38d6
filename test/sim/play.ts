/**
 * Plays one seed: a world is made, the VM is protected, things go wrong, things are mended; and at every step
 * it is judged.
 */
import { inWorld, type Stage } from "./stage.ts";
import { AMBUSHES, ambush, FAULTS, SINGLE, STEPS, strike } from "./world/faults.ts";
import { order, primaryOf } from "./world/operator.ts";
import { Random } from "./world/random.ts";
import type { Nature, World } from "./world/world.ts";

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
  readonly focus?: Focus;
}

/** What is looked for, where a run is to come to a certain point sooner than chance would have it. */
export interface Focus {
  readonly style?: "one" | "few" | "storm" | "first";
  /** Nothing else goes wrong. */
  readonly faults?: readonly string[];
  /** Nothing else is ordered. */
  readonly orders?: readonly string[];
}

/**
 * After the last fault, the VM must be protected and heard of within this time. A try to protect again may be
 * a minute off (docs/specs/protocol.md).
 */
const PROTECTED_AGAIN_MS = 100_000;
const BEGIN_MS = 20_000;
/** A switchover that is refused has been by then. */
const ASK_AGAIN_MS = 3_000;
const ORDERS = ["switchover", "switchover", "stop", "hold", "protect", "protect"];
/** Given so often in place of one of those. */
const QUITS = 0.06;

export function play({ focus = {}, hours, keepTranscript = 400, seed }: PlayOptions): Played {
  const random = new Random(seed);
  const world = inWorld(random, natureOf(random), keepTranscript, (stage) =>
    new Run(stage, focus, hours === undefined ? undefined : hours * 3_600_000).play(),
  );
  return {
    seed,
    violation: world.violation,
    transcript: world.transcript,
    seen: Object.fromEntries(world.seen),
    simulatedMs: world.time.now,
    events: world.time.events,
  };
}

function natureOf(random: Random): Nature {
  const link = () => ({
    latencyMs: random.pick([0.1, 0.1, 0.3, 2, 15]),
    jitterMs: random.pick([0.05, 0.05, 1, 5]),
    bytesPerMs: random.pick([100_000, 100_000, 10_000, 2_000]),
    bufferBytes: random.pick([1_000_000, 200_000, 30_000]),
  });
  return {
    links: random.pick([1, 1, 2]) === 1 ? [link()] : [link(), link()],
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
    hasDisk: random.chance(0.85),
    durability: random.pick(["strict", "strict", "replicated"]),
    diskShare: random.pick([0.1, 0.3, 0.6]),
    flushEvery: random.pick([4, 16, 64, 0]),
    logsGrow: random.chance(0.3),
    syncMs: random.pick([4, 4, 4, 40, 400]),
    flushMs: random.pick([4, 4, 40, 400, 1500]),
    holdMs: random.pick([0.1, 0.1, 5, 30]),
    startsMs: random.pick([
      [random.between(0, 100), random.between(0, 100)],
      [random.between(0, 100), random.between(0, 100)],
      [0, random.between(300, 3000)],
      [random.between(300, 3000), 0],
    ]),
    diskMs: random.pick([0.3, 0.3, 2, 8, 40]),
    firstPassMs: random.pick([20, 60, 300]),
    intervalMs: 25,
    maxInFlight: random.pick([8, 8, 2]),
    stagingMiB: random.pick([64, 64, 0.03]),
    detectionMs: 200,
    retryMs: random.pick([2000, 500]),
    hungMs: 2000,
    protectAtStart: random.chance(0.5),
    bothPrimary: false,
  };
}

class Run {
  private readonly stage: Stage;
  private readonly focus: Focus;
  private readonly world: World;
  private readonly hoursMs: number | undefined;

  constructor(stage: Stage, focus: Focus, hoursMs: number | undefined) {
    this.stage = stage;
    this.focus = focus;
    this.world = stage.world;
    this.hoursMs = hoursMs;
  }

  play(): void {
    const { world } = this;
    const { random } = world;
    const style =
      this.hoursMs !== undefined
        ? "long"
        : (this.focus.style ??
          random.pick(["one", "one", "one", "few", "few", "few", "storm", "storm", "first"]));
    world.count(`runs: ${style}`);
    if (!world.nature.protectAtStart) this.stage.protectOnOrder();
    if (style !== "first")
      this.stage.until(
        () => this.stage.isProtected(),
        BEGIN_MS,
        "the VM is not protected in a world where nothing has gone wrong",
      );
    if (style === "first") this.badTimes(random.between(200, 5000), 500, 2000);
    else if (style === "one") this.oneFailure();
    else if (style === "few") this.badTimes(random.between(1500, 6000), 1200, 2500);
    else if (style === "storm") this.badTimes(random.between(1500, 4000), 250, 1500);
    else this.long(this.hoursMs!);
    this.goodTimes();
  }

  /** One thing goes wrong, at any instant or step, perhaps while an order is carried out. */
  private oneFailure(): void {
    const { world } = this;
    const { random } = world;
    if (random.chance(0.4)) this.moveFirst();
    world.onlyOneFailure = true;
    const name = random.pick(this.focus.faults ?? SINGLE);
    const host = world.host(random.pick(["A", "B"]));
    let struck = false;
    const now = () => {
      if (struck) return;
      struck = true;
      world.forget();
      if (!this.stage.isProtected()) world.onlyOneFailure = false;
      // Should it be the new owner, between the arbiter's word and TAKEOVER.
      this.stage.mayBeStranded =
        !world.onlyOneFailure ||
        (world.seen.has("order: switchover") &&
          (name.includes("host loses power") || name === "guardian is killed"));
      strike(world, name, host);
      // What a standby cannot do shows when it is asked to.
      if (name.startsWith("standby"))
        world.time.after(random.between(0, 200), () => this.anOrder("switchover"));
    };
    if (random.chance(0.5)) world.at(random.pick(STEPS), random.below(4), now);
    else world.time.after(random.between(0, 600), now);
    if (random.chance(name === "an effect fails" ? 0.9 : 0.4))
      world.time.after(random.between(0, 300), () => this.anOrder());
    this.stage.pass(random.pick([700, 700, 3000]));
    now();
    this.stage.pass(random.between(2500, 5000));
    while (world.time.now < world.notBefore && world.violation === undefined) this.stage.pass(200);
  }

  /** The VM has been on the other host before, and this one knows of it. */
  private moveFirst(): void {
    const { stage, world } = this;
    const from = primaryOf(world);
    if (from === undefined) return;
    let askedMs = Number.NEGATIVE_INFINITY;
    stage.until(
      () => {
        if (!stage.isProtected()) return false;
        if (world.checker.newest?.host !== from.name) return true;
        // Again, if it was refused: datagrams are lost in the best of worlds, and a witness that is not heard
        // for long refuses.
        if (world.time.now - askedMs > ASK_AGAIN_MS && order(world, from, "switchover"))
          askedMs = world.time.now;
        return false;
      },
      BEGIN_MS,
      "a switchover in a world where nothing has gone wrong does not come to its end",
    );
  }

  /** @param faultMs from one fault to the next, on average; likewise orders */
  private badTimes(ms: number, faultMs: number, orderMs: number): void {
    const { world } = this;
    const { random } = world;
    const names = this.focus.faults ?? this.someFaults();
    const ambushes = Object.keys(AMBUSHES);
    const fault = () => {
      if (world.calm) return;
      const name = random.pick(names);
      const host = world.host(random.pick(["A", "B"]));
      if (this.focus.faults === undefined && random.chance(0.15))
        ambush(world, random.pick(ambushes), host, (wanted) => world.calm || this.anOrder(wanted));
      else if (random.chance(0.4))
        world.at(random.pick(STEPS), random.below(6), () => world.calm || strike(world, name, host));
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
    this.stage.pass(ms);
    while (world.time.now < world.notBefore && world.violation === undefined) this.stage.pass(200);
  }

  /** All that can go wrong, or a few things of it, so that they meet often. */
  private someFaults(): string[] {
    const { random } = this.world;
    const all = Object.keys(FAULTS);
    all.push("an effect fails", "an effect fails");
    if (random.chance(0.5)) return all;
    return Array.from({ length: 3 + random.below(6) }, () => random.pick(all));
  }

  /** Bad times and good ones in turn. */
  private long(ms: number): void {
    const { world } = this;
    const end = world.time.now + ms;
    while (world.time.now < end && world.violation === undefined) {
      this.badTimes(world.random.between(2000, 10_000), world.random.pick([300, 1500]), 2000);
      this.goodTimes();
      world.calm = false;
      this.stage.pass(world.random.between(500, 3000));
    }
  }

  private anOrder(wanted?: string): void {
    const { world } = this;
    if (wanted === undefined && this.focus.orders === undefined && world.random.chance(QUITS)) {
      this.quit();
      return;
    }
    const host = primaryOf(world);
    if (host === undefined) return;
    const name = wanted ?? world.random.pick(this.focus.orders ?? ORDERS);
    // Who has said stop has a VM on one host.
    if (name === "stop") world.onlyOneFailure = false;
    if (name === "stop") this.stage.stopped = this.stage.mayBeStranded = true;
    order(world, host, name);
  }

  /** Somebody ends a guardian in order. It is started again, and not told to protect the VM. */
  private quit(): void {
    const { stage, world } = this;
    const host = world.host(world.random.pick(["A", "B"]));
    world.onlyOneFailure = false;
    stage.stopped = stage.mayBeStranded = true;
    order(world, host, "quit");
  }

  /** Liveness: within a bound the VM is protected, and clients are served. */
  private goodTimes(): void {
    const { stage, world } = this;
    stage.mayBeStranded ||= !world.onlyOneFailure;
    this.stage.calmDown();
    // Who has not said stop need not ask again.
    if (this.stage.stopped) this.stage.protectOnOrder();
    this.stage.until(
      () => this.stage.isProtected() || (this.stage.mayBeStranded && this.stage.isStranded()),
      PROTECTED_AGAIN_MS,
      "all is mended, and the VM is not protected, or nobody is served",
    );
    world.onlyOneFailure = false;
    if (this.stage.isStranded()) this.startByHand();
    else this.stage.pass(150);
  }

  /**
   * Nobody but an operator may start the VM, where it ran last; not even that, if what it ran from was not on
   * stable storage there.
   */
  private startByHand(): void {
    const { stage, world } = this;
    const host = stage.ranLastAt();
    world.count(`stranded: ${host === undefined ? "for good" : "an operator starts the VM"}`);
    if (host === undefined) return;
    stage.protectOnOrder();
    // Until it is taken: the guardian may just be starting. The newer claim may be that of a host which never
    // came to run it.
    const ask = () => {
      if (world.ending || world.checker.newest?.alive === true) return;
      order(world, host, "start-here", { runsNowhereElse: true, evenOlderDisks: true });
      world.time.after(3000, ask);
    };
    ask();
    stage.until(
      () => stage.isProtected(),
      PROTECTED_AGAIN_MS,
      "an operator has had the VM started, and it is not protected, or nobody is served",
    );
  }
}
