/**
 * Somebody on the hosts' network who has no business at the port: he says nothing, or nonsense, or what a
 * primary would say.
 */
import { PROTOCOL_VERSION } from "../../../src/codec/replication.ts";
import { encodeHello } from "../../../src/codec/replication-encode.ts";
import { vmIdBytes } from "../../../src/codec/replication-header.ts";
import { VM } from "./guardian.ts";
import { SimSocket } from "./socket.ts";
import { BLOCK_BYTES, BLOCKS } from "./storage.ts";
import { SimProcess } from "./time.ts";
import type { World } from "./world.ts";

/** More than a door keeps that have not said who they are. */
const CROWD = 70;
const STAYS_MS = 4_000;

export type Manner = "crowds the door" | "talks nonsense" | "says HELLO";

/** Calls at the addresses at which somebody listens. */
export function strangerCalls(world: World, manner: Manner): void {
  for (const address of [...world.network.acceptors.keys()]) {
    world.count(`a stranger ${manner}`);
    const calls = Array.from({ length: manner === "crowds the door" ? CROWD : 1 }, () =>
      call(world, address),
    );
    if (manner !== "crowds the door")
      for (const bytes of manner === "says HELLO" ? hello(world) : nonsense(world)) calls[0]?.write(bytes);
  }
}

/** A connection that is made, and stays for a while. */
function call(world: World, address: string): SimSocket | undefined {
  const { network, time } = world;
  const acceptor = network.acceptors.get(address);
  const [to, link] = [address[0]!, Number(address[1] ?? 0)];
  if (acceptor === undefined || !world.host(to).on) return undefined;
  const clock = {
    monotonicMs: () => time.now,
    activeMs: () => time.now,
    worldMs: (ms: number) => ms,
    wallMs: () => time.now,
  };
  const process = new SimProcess("stranger", time, clock, (error) => world.bug("stranger", error));
  const ours = new SimSocket(world, network, network.way("C", to, link), process, {
    own: "C0",
    remote: address,
  });
  const theirs = new SimSocket(world, network, network.way(to, "C", link), acceptor.process, {
    own: address,
    remote: "C0",
  });
  ours.peer = theirs;
  theirs.peer = ours;
  ours.on("error", () => {});
  acceptor.process.post(0, () => acceptor.accept(theirs));
  time.after(STAYS_MS, () => process.kill());
  return ours;
}

function nonsense({ random }: World): Uint8Array[] {
  return [Uint8Array.from({ length: 1 + random.below(200) }, () => random.below(256))];
}

/** All of it is right, as somebody may know who has listened; but for the generation, perhaps. */
function hello({ claimed, nature, random }: World): Uint8Array[] {
  const known = claimed?.generation ?? 1;
  const generation = random.pick([known, known + 1, known + 60, 2 ** 32 - 2, 2 ** 32 - 1]);
  const { parts } = encodeHello(
    { vmId: vmIdBytes(VM), generation },
    {
      protocol: PROTOCOL_VERSION,
      host: "C",
      machine: { machine: "pc" },
      ramBytes: 64 * 2 ** 20,
      intervalMs: nature.intervalMs,
      session: `00000000-0000-4000-9000-${random.bits().toString(16).padStart(12, "0")}`,
      paths: nature.links.length,
      path: 0,
      disks: nature.hasDisk ? [{ id: 0, bytes: BLOCKS * BLOCK_BYTES }] : [],
    },
  );
  return [...parts];
}
