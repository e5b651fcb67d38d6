/**
 * What can go wrong, by name. Each fault heals by itself, or with `heal`, when a run's bad times are over.
 */
import type { Host } from "./host.ts";
import { order } from "./operator.ts";
import { strangerCalls } from "./stranger.ts";
import type { World } from "./world.ts";

/** @param at the host that it strikes; for links, the one whose way out it is */
type Fault = (world: World, at: Host) => void;

/** Undoes what a fault has done, once: after so long, or when the bad times are over. */
function heals(world: World, ms: number, undo: () => void): void {
  let done = false;
  const once = () => {
    if (done) return;
    done = true;
    undo();
  };
  world.time.after(ms, once);
  world.healing.push(once);
}

const other = (world: World, { name }: Host) => world.host(name === "A" ? "B" : "A");
/** Short times are the more interesting ones: about the detection time; some are long. */
const aWhile = ({ random }: World) =>
  random.pick([
    random.between(20, 180),
    random.between(150, 350),
    random.between(300, 2500),
    random.between(1000, 6000),
  ]);
const anyLink = ({ network, random }: World) => random.below(network.quality.length);

const PROTECTED = new Set(["primary protected", "primary handing-over"]);

/** Of a fault that has waited: what has happened to the VM meanwhile may be a failure of its own. */
function losesPowerNow(world: World, host: Host): void {
  if (world.calm) return;
  const { checker, time } = world;
  const { committed, newest } = checker;
  const isFollowed =
    committed !== undefined && committed.timeline === newest?.timeline && committed.host !== newest.host;
  const isProtected = PROTECTED.has(world.phaseOf(newest?.host ?? ""));
  if (!isProtected || !isFollowed || time.now - committed.at > 300) world.onlyOneFailure = false;
  FAULTS["host loses power"]!(world, host);
}

function cut(world: World, ways: readonly (readonly [string, string])[], link: number, ms: number): void {
  for (const [from, to] of ways) world.network.setUp(from, to, link, false);
  heals(world, ms, () => {
    for (const [from, to] of ways) world.network.setUp(from, to, link, true);
  });
}

const BOTH_WAYS = [
  ["A", "B"],
  ["B", "A"],
] as const;

/** What a change of roles consists of, at either host. */
const EFFECTS_OF: Readonly<Record<string, readonly string[]>> = {
  protect: ["connect", "start-capture", "begin-epochs", "ack", "commit", "unable", "report"],
  stop: ["send-goodbye", "goodbye-ok", "forget", "release-all", "end-capture"],
  switchover: ["capture", "release", "send-handover", "ask-arbiter", "run-standby", "takeover", "kill-vm"],
  link: ["ack", "ask-arbiter", "kill-vm", "release-all", "end-capture", "drop-incomplete", "takeover"],
  power: [
    "ask-arbiter",
    "drop-incomplete",
    "commit",
    "run-standby",
    "takeover",
    "release-all",
    "end-capture",
  ],
};
const EFFECTS = [...new Set(Object.values(EFFECTS_OF).flat())];

export const FAULTS: Readonly<Record<string, Fault>> = {
  "host loses power"(world, host) {
    host.powerOff();
    heals(world, world.random.between(800, 6000), () => host.powerOn());
  },
  "both hosts lose power"(world, host) {
    for (const one of [host, other(world, host)]) {
      one.powerOff();
      heals(world, world.random.between(500, 5000), () => one.powerOn());
    }
  },
  "both hosts lose power at once"(world, host) {
    const ms = world.random.between(500, 5000);
    for (const one of [host, other(world, host)]) {
      one.powerOff();
      heals(world, ms, () => one.powerOn());
    }
  },
  "host is installed anew"(world, host) {
    const { checker, random, time } = world;
    const { committed, newest } = checker;
    const isElsewhere = newest?.alive === true && newest.host !== host.name;
    const isFollowed = committed?.timeline === newest?.timeline && committed?.host !== host.name;
    // Who has the only copy of a VM is not installed anew.
    if (
      !host.on ||
      newest?.alive !== true ||
      !(isElsewhere || (isFollowed && time.now - committed!.at < 100))
    )
      return;
    world.count("hosts that were installed anew");
    host.powerOff();
    host.installAnew();
    heals(world, random.between(300, 4000), () => host.powerOn());
    // It starts with its old file, and is refused where that says primary; then somebody sets that right.
    heals(world, random.between(1000, 8000), () => {
      host.fileRole = "backup";
    });
  },
  "guardian is killed"(_world, host) {
    host.killGuardian();
  },
  "guardian stands still"(world, host) {
    host.stopGuardian(aWhile(world));
  },
  "host stands still"(world, host) {
    const ms = aWhile(world);
    const { qemu } = host;
    qemu?.hang();
    host.stopGuardian(ms);
    heals(world, ms, () => qemu?.unhang());
  },
  "host is suspended"(world, host) {
    host.suspend(aWhile(world));
  },
  "QEMU crashes"(_world, host) {
    host.qemu?.die("QEMU ended (SIGSEGV)");
  },
  "QEMU hangs for a while"(world, host) {
    const { qemu } = host;
    qemu?.hang();
    heals(world, Math.min(2000, aWhile(world)), () => qemu?.unhang());
  },
  "QEMU hangs, and cannot be killed for long"(world, host) {
    const { qemu } = host;
    if (qemu === undefined) return;
    qemu.hang();
    qemu.unkillable = true;
    // Longer than anybody may go without being served.
    world.notBefore = Math.max(world.notBefore, world.time.now + 12_000);
    heals(world, 15_000, () => qemu.killable());
  },
  "link is cut"(world) {
    cut(world, BOTH_WAYS, anyLink(world), aWhile(world));
  },
  "link is cut one way"(world, host) {
    cut(world, [[host.name, other(world, host).name]], anyLink(world), aWhile(world));
  },
  "link flaps"(world) {
    const link = anyLink(world);
    const flap = (left: number) => {
      if (left === 0 || world.calm) return;
      cut(world, BOTH_WAYS, link, world.random.between(10, 190));
      world.time.after(world.random.between(50, 400), () => flap(left - 1));
    };
    flap(3 + world.random.below(8));
  },
  "connection is reset at one end"(world, host) {
    for (const socket of [...world.network.sockets]) if (socket.host === host.name) socket.reset();
  },
  "connection is reset at both ends"(world) {
    for (const socket of [...world.network.sockets]) socket.reset();
  },
  "link is slow"(world) {
    const link = anyLink(world);
    const quality = world.network.quality[link]!;
    const { random } = world;
    if (random.chance(0.5)) quality.bytesPerMs = random.between(100, 2000);
    if (random.chance(0.5)) quality.latencyMs = random.between(5, 160);
    if (random.chance(0.5)) quality.jitterMs = random.between(5, 150);
    if (random.chance(0.5)) quality.bufferBytes = random.between(4_000, 60_000);
    heals(world, random.between(500, 4000), () => Object.assign(quality, world.nature.links[link]));
  },
  "a byte is changed on its way"(world, host) {
    world.network.corruptNext(host.name);
  },
  "witness process crashes"(world) {
    const member = world.random.pick(world.witness.members);
    member.on = false;
    heals(world, world.random.between(300, 4000), () => {
      member.on = true;
    });
  },
  "witness is gone"(world) {
    for (const member of world.witness.members) member.on = false;
    heals(world, world.random.between(300, 4000), () => {
      for (const member of world.witness.members) member.on = true;
    });
  },
  "witness is out of reach for one"(world, host) {
    for (const { deafTo } of world.witness.members) deafTo.add(host.name);
    heals(world, aWhile(world), () => {
      for (const { deafTo } of world.witness.members) deafTo.delete(host.name);
    });
  },
  "datagrams fare ill"(world) {
    const { post } = world.witness;
    Object.assign(post, { loss: 0.5, duplication: 0.3, longShare: 0.4, longMs: 2500 });
    heals(world, world.random.between(500, 4000), () => Object.assign(post, world.nature.datagrams));
  },
  "a device is plugged in"(world, host) {
    const { qemu } = host;
    qemu?.plug();
    heals(world, world.random.between(500, 9000), () => qemu?.unplug());
  },
  "a stranger calls"(world) {
    strangerCalls(
      world,
      world.random.pick(["crowds the door", "talks nonsense", "says HELLO", "says HELLO"]),
    );
  },
  "wall clock jumps"(world, host) {
    host.wallOffsetMs += world.random.between(-1e7, 1e7);
  },
  "capture fails"(_world, host) {
    host.qemu?.capture?.lost("QEMU has given the migration up");
  },
  "output hold fails"(_world, host) {
    host.qemu?.chain?.fail();
  },
  "mirror fails"(_world, host) {
    host.qemu?.mirror?.fail();
  },
  "disk cannot be written"(world, host) {
    host.diskFails = true;
    heals(world, world.random.between(20, 3000), () => {
      host.diskFails = false;
    });
  },
  "host loses power, and the other's image has no room for a while"(world, host) {
    const { random } = world;
    const peer = other(world, host);
    // So that there is something left to be put in.
    peer.diskMs = random.between(50, 400);
    heals(world, 6000, () => {
      peer.diskMs = undefined;
    });
    const full = () => {
      peer.diskFails = true;
      heals(world, random.between(20, 1500), () => {
        peer.diskFails = false;
      });
    };
    world.at("backup:arbitrating", 0, full, peer.name);
    world.time.after(random.between(20, 400), () => losesPowerNow(world, host));
  },
  "host loses power as it hands the VM over, and the standby hangs for a while"(world, host) {
    const peer = other(world, host);
    const { random } = world;
    peer.loadTakesMs = random.between(300, 900);
    heals(world, 4000, () => {
      peer.loadTakesMs = 0;
    });
    const strike = () => {
      const { qemu } = peer;
      qemu?.hang();
      heals(world, random.between(2300, 3500), () => qemu?.unhang());
      FAULTS["host loses power"]!(world, host);
    };
    world.at("backup:recovering", 0, strike, peer.name);
    order(world, host, "switchover");
  },
  "nothing reaches stable storage"(world, host) {
    host.syncFails = true;
    heals(world, world.random.between(20, 1500), () => {
      host.syncFails = false;
    });
  },
  "there is no room for notes"(world, host) {
    host.stateFull = true;
    heals(world, world.random.between(20, 3000), () => {
      host.stateFull = false;
    });
  },
  "stable storage is slow"(world, host) {
    const [syncMs, flushMs] = [world.random.between(50, 1500), world.random.between(50, 1500)];
    if (world.random.chance(0.7)) host.syncMs = syncMs;
    if (world.random.chance(0.7)) host.flushMs = flushMs;
    heals(world, world.random.between(500, 5000), () => {
      host.syncMs = world.nature.syncMs;
      host.flushMs = world.nature.flushMs;
    });
  },
  "addresses are gone"(world, host) {
    host.addressGone = true;
    const { name } = host;
    for (const socket of [...world.network.sockets]) if (socket.host === name) socket.reset();
    heals(world, world.random.between(100, 6000), () => {
      host.addressGone = false;
    });
  },
  "files that the VM boots from are gone"(world, host) {
    host.filesGone = true;
    heals(world, world.random.between(500, 6000), () => {
      host.filesGone = false;
    });
  },
  "QEMU refuses orders"(world, host) {
    host.refusals = world.random.pick([0.1, 0.5, 1]);
    heals(world, world.random.between(5, 500), () => {
      host.refusals = 0;
    });
  },
  "an effect fails"(world, host) {
    const { random } = world;
    const type = random.chance(0.7) ? random.pick(EFFECTS) : undefined;
    host.failingEffect = { type, after: random.pick([0, 0, 0, 1, random.below(20)]) };
  },
  "a step fails, and host loses power"(world, host) {
    const peer = other(world, host);
    peer.failingStep = true;
    heals(world, 300, () => {
      peer.failingStep = false;
    });
    // The error may come of the very loss.
    world.time.after(world.random.between(0, 60), () => losesPowerNow(world, host));
  },
  "the link is cut, and nobody can ask at first"(world) {
    for (const host of world.hosts.values()) host.failingEffect = { type: "ask-arbiter", after: 0 };
    cut(world, BOTH_WAYS, anyLink(world), world.random.between(300, 2500));
  },
  "host loses power, and the other's standby cannot be run at first"(world, host) {
    other(world, host).failingEffect = { type: "run-standby", after: 0 };
    FAULTS["host loses power"]!(world, host);
  },
  "witness cannot write"(world) {
    for (const member of world.witness.members) member.writes = false;
    heals(world, world.random.between(300, 4000), () => {
      for (const member of world.witness.members) member.writes = true;
    });
  },
  "standby cannot load"(world, host) {
    host.loadFails = true;
    heals(world, world.random.between(1000, 6000), () => {
      host.loadFails = false;
    });
  },
  "standby loads slowly"(world, host) {
    host.loadTakesMs = world.random.between(200, 2500);
    heals(world, world.random.between(1000, 6000), () => {
      host.loadTakesMs = 0;
    });
  },
};

/** Of more than one host, or an end of the VM. */
const NOT_SINGLE = new Set([
  "the link is cut, and nobody can ask at first",
  "host is installed anew",
  "both hosts lose power",
  "both hosts lose power at once",
  "QEMU hangs for a while",
]);

/**
 * Failures of one host, link or process, after which the VM must run on (I4). What hangs and comes back is
 * the most dangerous.
 */
export const SINGLE = Object.keys(FAULTS)
  .filter((name) => !NOT_SINGLE.has(name))
  .flatMap((name) =>
    name.endsWith("stands still") || name === "an effect fails" ? [name, name, name] : [name],
  );

/** What hits somebody at the moment at which it has just begun to be something else, or is about to. */
type Ambush = (world: World, at: Host, order: (name: string) => void) => void;

const anInstant = ({ random }: World) => random.pick([0, random.between(0, 20), random.between(0, 300)]);

function later(world: World, step: string, host: string | undefined, act: (host: Host) => void): void {
  world.at(
    step,
    0,
    (name) => world.time.after(anInstant(world), () => world.calm || act(world.host(name))),
    host,
  );
}

/** @param ms off for so long at most, on again by then */
function powerCycle(world: World, host: Host, ms: number): void {
  if (!host.on) return;
  host.powerOff();
  heals(world, world.random.between(20, ms), () => host.powerOn());
}

export const AMBUSHES: Readonly<Record<string, Ambush>> = {
  "old host loses power just after it gave the VM away"(world, host, order) {
    later(world, world.random.pick(["backup:waiting", "primary:superseded"]), host.name, (old) =>
      powerCycle(world, old, 500),
    );
    order("switchover");
  },
  "new host loses power just after it took the VM over"(world, host) {
    const peer = other(world, host);
    later(
      world,
      world.random.pick(["primary:unprotected", "standby-runs", "backup:running"]),
      peer.name,
      (now) => powerCycle(world, now, 3000),
    );
    powerCycle(world, host, 4000);
  },
  "a host loses power as protection begins"(world, host, order) {
    const begins = world.random.pick([
      "primary:connecting",
      "primary:syncing",
      "primary:protected",
      "backup:armed",
    ]);
    later(world, begins, undefined, () => {
      powerCycle(world, host, 1500);
      if (world.random.chance(0.3)) powerCycle(world, other(world, host), 1500);
    });
    order("protect");
  },
  "the protection that was just begun is stopped"(world, _host, order) {
    order("protect");
    world.time.after(world.random.pick([0, 1, 15, 60, 300]) * world.random.unit(), () => order("stop"));
  },
  "a host that starts asks at last, and is overtaken by its backup"(world, host) {
    const peer = other(world, host);
    const hear = ({ name }: Host, heard: boolean) => {
      for (const { deafTo } of world.witness.members) heard ? deafTo.delete(name) : deafTo.add(name);
    };
    world.notBefore = Math.max(world.notBefore, world.time.now + 9000);
    hear(peer, false);
    heals(world, 9000, () => hear(peer, true));
    powerCycle(world, host, 300);
    // It has left the other one its time, and is not heard now that it is over.
    world.at(
      "claims",
      0,
      () => {
        hear(host, false);
        hear(peer, true);
        heals(world, world.random.between(700, 2500), () => hear(host, true));
      },
      host.name,
    );
  },
  "an effect fails in a change of roles"(world, host, order) {
    const { random } = world;
    const change = random.pick(Object.keys(EFFECTS_OF));
    const type = random.pick(EFFECTS_OF[change]!);
    for (const one of [host, other(world, host)]) one.failingEffect = { type, after: 0 };
    if (change === "link") cut(world, BOTH_WAYS, anyLink(world), aWhile(world));
    else if (change === "power") powerCycle(world, host, 3000);
    else order(change);
  },
  "the protection of a VM that was just taken over is stopped"(world, host, order) {
    const peer = other(world, host);
    later(world, "primary:unprotected", peer.name, () => order("stop"));
    if (world.random.chance(0.5)) powerCycle(world, host, 4000);
    else order("switchover");
  },
  "protection is stopped twice, and asked for again, and notes are slow"(world, _host, order) {
    const slow = world.random.between(50, 800);
    for (const host of world.hosts.values()) host.syncMs = slow;
    heals(world, 3000, () => {
      for (const host of world.hosts.values()) host.syncMs = world.nature.syncMs;
    });
    later(world, "primary:unprotected", undefined, () => {
      order("stop");
      order("protect");
    });
    order("stop");
  },
  "the witness is gone as the VM is handed over"(world, _host, order) {
    const { random, time, witness } = world;
    const ms = random.pick([random.between(500, 3000), random.between(8000, 11_000)]);
    world.at("sends handover", 0, () => {
      for (const member of witness.members) member.on = false;
      world.notBefore = Math.max(world.notBefore, time.now + ms);
      heals(world, ms, () => {
        for (const member of witness.members) member.on = true;
      });
    });
    order("switchover");
  },
  "a host that has lost the VM is installed anew"(world, host) {
    const { random } = world;
    if (!host.on) return;
    const anew = () => {
      if (world.calm || host.on) return;
      world.count("hosts that were installed anew");
      host.installAnew();
    };
    later(world, "primary:unprotected", other(world, host).name, anew);
    host.powerOff();
    world.notBefore = Math.max(world.notBefore, world.time.now + 5000);
    heals(world, random.between(1500, 4000), () => host.powerOn());
    heals(world, random.between(5000, 8000), () => {
      host.fileRole = "backup";
    });
  },
  "a host that comes back is the other's again at once"(world, host, order) {
    later(world, "primary:protected", undefined, () => {
      order("switchover");
      later(world, "primary:protected", undefined, (now) => powerCycle(world, now, 800));
    });
    powerCycle(world, host, 300);
  },
};

/** Steps at which a fault may wait for somebody. */
export const STEPS: readonly string[] = [
  "before-capture",
  "after-capture",
  "before-resume",
  "after-resume",
  "before-release",
  "after-release",
  "primary:connecting",
  "primary:syncing",
  "primary:protected",
  "primary:handing-over",
  "primary:leaving",
  "primary:arbitrating",
  "primary:ending",
  "primary:superseded",
  "primary:unprotected",
  "backup:waiting",
  "backup:filling",
  "backup:armed",
  "backup:arbitrating",
  "backup:recovering",
  "backup:running",
  "backup:stood-down",
  "log-gives-way",
  "log-goes",
  "claims",
  "claim-written",
  "asks-newest",
  "standby-loads",
  "standby-runs",
  "sends hello",
  "sends welcome",
  "sends ack",
  "sends checkpoint-end",
  "sends goodbye",
  "sends goodbye-ok",
  "sends handover",
  "sends handover-refused",
  "sends takeover",
  "sends disk-durable",
];

/** Lies in wait for this host, or for what it does to the other. */
export function ambush(world: World, name: string, host: Host, order: (name: string) => void): void {
  world.note("FAULT", `${name} (${host.name})`);
  world.count(`ambush: ${name}`);
  AMBUSHES[name]!(world, host, order);
}

/** Does what its name says to this host, or to its link. */
export function strike(world: World, name: string, host: Host): void {
  const fault = FAULTS[name];
  if (fault === undefined) throw new Error(`there is no fault "${name}"`);
  world.note("FAULT", `${name} (${host.name})`);
  world.count(`fault: ${name}`);
  fault(world, host);
}
