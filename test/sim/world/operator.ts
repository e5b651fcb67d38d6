/** Who gives orders: at a host's control socket, in words of docs/specs/control.md. */
import type { Host } from "./host.ts";
import type { World } from "./world.ts";

/** Gives an order; what comes of it is told in the transcript. False where nobody takes it. */
export function order(world: World, host: Host, name: string, args: Record<string, unknown> = {}): boolean {
  const { guardian } = host;
  if (guardian?.alive !== true || guardian.stopped || host.ear?.orders[name] === undefined) return false;
  guardian.post(0, () => {
    const take = host.ear?.orders[name];
    if (take === undefined) return;
    world.note("operator", `${name} (${host.name})`);
    world.count(`order: ${name}`);
    const left: (() => void)[] = [];
    const timeline = host.qemu?.guest?.timeline;
    const wish = ["protect", "stop", "switchover"].includes(name) ? ++world.wishes : undefined;
    if (wish !== undefined) world.stopped = undefined;
    if (name === "quit") host.endAsked = true;
    const stopped = () => {
      const guest = host.qemu?.guest;
      if (name === "stop" && wish === world.wishes && guest !== undefined && guest.timeline === timeline)
        world.stopped = { host: host.name, timeline: guest.timeline, seq: guest.seq };
    };
    const caller = { onLeft: (undo: () => void) => left.push(undo) };
    Promise.resolve()
      .then(() => take(args, caller))
      .then(
        () => {
          world.note("operator", `${name} (${host.name}): done`);
          stopped();
        },
        (error: Error) => {
          world.note("operator", `${name} (${host.name}): ${error.message}`);
          world.refused = error.message;
        },
      );
    if (name === "hold") {
      const ms = world.random.between(20, 700);
      world.heldUntilMs = world.time.now + ms + 200;
      const leaves = world.random.chance(0.3);
      guardian.post(ms, () => {
        if (leaves) for (const undo of left) undo();
        else void host.ear?.orders.proceed?.({}, caller);
      });
    }
  });
  return true;
}

/** The host that says it is the VM's primary, if one does. */
export function primaryOf(world: World): Host | undefined {
  return [...world.hosts.values()].find(
    ({ ear, guardian }) => guardian?.alive === true && ear?.orders.protect !== undefined,
  );
}
