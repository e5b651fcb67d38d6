/** What can go wrong, by name. Each fault heals by itself, or with `heal`, when a run's bad times are over. */
import type { Host } from "./host.ts";
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
  "QEMU crashes"(_world, host) {
    host.qemu?.die("QEMU ended (SIGSEGV)");
  },
  "QEMU hangs for a while"(world, host) {
    const { qemu } = host;
    qemu?.hang();
    heals(world, Math.min(2000, aWhile(world)), () => qemu?.unhang());
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
  "nothing reaches stable storage"(world, host) {
    host.syncFails = true;
    heals(world, world.random.between(20, 1500), () => {
      host.syncFails = false;
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

/** Failures of one host, link or process, after which the VM must run on (I4). What hangs and comes back is the most dangerous. */
export const SINGLE = Object.keys(FAULTS)
  .filter((name) => !["both hosts lose power", "QEMU hangs for a while"].includes(name))
  .flatMap((name) => (name.endsWith("stands still") ? [name, name, name] : [name]));

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

/** Does what its name says to this host, or to its link. */
export function strike(world: World, name: string, host: Host): void {
  const fault = FAULTS[name];
  if (fault === undefined) throw new Error(`there is no fault "${name}"`);
  world.note("FAULT", `${name} (${host.name})`);
  world.count(`fault: ${name}`);
  fault(world, host);
}
