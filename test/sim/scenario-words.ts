/** What a line of a scenario may do, and what it may expect. */
import type { Stage } from "./stage.ts";
import { order } from "./world/operator.ts";
import type { World } from "./world/world.ts";

type Act = (stage: Stage, words: RegExpExecArray) => void;

/** @param which "A→B" or "B→A"; both, if it is empty */
function setLink({ network }: World, which: string, up: boolean): void {
  for (const [link] of network.quality.entries()) {
    if (which !== "B→A") network.setUp("A", "B", link, up);
    if (which !== "A→B") network.setUp("B", "A", link, up);
  }
}

/** What a line may do. `H` is A or B. */
export const ACTIONS: readonly (readonly [RegExp, Act])[] = [
  [/^power off (A|B)$/, ({ world }, [, h]) => world.host(h!).powerOff()],
  [/^power on (A|B)$/, ({ world }, [, h]) => world.host(h!).powerOn()],
  [/^kill guardian (A|B)$/, ({ world }, [, h]) => world.host(h!).killGuardian()],
  [/^crash QEMU (A|B)$/, ({ world }, [, h]) => world.host(h!).qemu?.die("QEMU ended (SIGSEGV)")],
  [
    /^QEMU of (A|B) hangs, and cannot be killed$/,
    ({ world }, [, h]) => {
      const { qemu } = world.host(h!);
      qemu?.hang();
      if (qemu !== undefined) qemu.unkillable = true;
    },
  ],
  [/^stop guardian (A|B) for (\d+)$/, ({ world }, [, h, ms]) => world.host(h!).stopGuardian(Number(ms))],
  [
    /^stop host (A|B) for (\d+)$/,
    ({ world }, [, h, ms]) => {
      const { qemu } = world.host(h!);
      qemu?.hang();
      world.host(h!).stopGuardian(Number(ms));
      world.time.after(Number(ms), () => qemu?.unhang());
    },
  ],
  [/^cut link( A→B| B→A)?$/, ({ world }, [, which = ""]) => setLink(world, which.trim(), false)],
  [/^mend link$/, ({ world }) => setLink(world, "", true)],
  [
    /^reset connection( at A| at B)?$/,
    ({ world }, [, at]) => {
      for (const socket of [...world.network.sockets])
        if (at === undefined || at.endsWith(socket.host)) socket.reset();
    },
  ],
  [/^change a byte from (A|B)$/, ({ world }, [, h]) => world.network.corruptNext(h!)],
  [
    /^link is slow$/,
    ({ world }) => {
      for (const quality of world.network.quality)
        Object.assign(quality, { bytesPerMs: 1500, bufferBytes: 20_000 });
    },
  ],
  [
    /^witness is gone$/,
    ({ world }) => {
      for (const member of world.witness.members) member.on = false;
    },
  ],
  [
    /^witness is back$/,
    ({ world }) => {
      for (const member of world.witness.members) member.on = true;
      for (const member of world.witness.members) member.deafTo.clear();
    },
  ],
  [
    /^witness is out of reach for (A|B)$/,
    ({ world }, [, h]) => {
      for (const member of world.witness.members) member.deafTo.add(h!);
    },
  ],
  [
    /^wall clock of (A|B) jumps$/,
    ({ world }, [, h]) => Object.assign(world.host(h!), { wallOffsetMs: 3_600_000 }),
  ],
  [/^capture fails at (A|B)$/, ({ world }, [, h]) => world.host(h!).qemu?.capture?.lost("QEMU has given up")],
  [/^output hold fails at (A|B)$/, ({ world }, [, h]) => world.host(h!).qemu?.chain?.fail()],
  [/^mirror fails at (A|B)$/, ({ world }, [, h]) => world.host(h!).qemu?.mirror?.fail()],
  [/^disk of (A|B) is full$/, ({ world }, [, h]) => Object.assign(world.host(h!), { diskFails: true })],
  [/^disk of (A|B) has room$/, ({ world }, [, h]) => Object.assign(world.host(h!), { diskFails: false })],
  [
    /^disk of (A|B) takes (\d+)$/,
    ({ world }, [, h, ms]) => Object.assign(world.host(h!), { diskMs: Number(ms) }),
  ],
  [/^nothing is synced at (A|B)$/, ({ world }, [, h]) => Object.assign(world.host(h!), { syncFails: true })],
  [/^syncing works at (A|B)$/, ({ world }, [, h]) => Object.assign(world.host(h!), { syncFails: false })],
  [
    /^addresses of (A|B) are gone$/,
    ({ world }, [, h]) => Object.assign(world.host(h!), { addressGone: true }),
  ],
  [
    /^addresses of (A|B) are back$/,
    ({ world }, [, h]) => Object.assign(world.host(h!), { addressGone: false }),
  ],
  [/^no room for notes at (A|B)$/, ({ world }, [, h]) => Object.assign(world.host(h!), { stateFull: true })],
  [/^room for notes at (A|B)$/, ({ world }, [, h]) => Object.assign(world.host(h!), { stateFull: false })],
  [
    /^boot files of (A|B) are gone$/,
    ({ world }, [, h]) => Object.assign(world.host(h!), { filesGone: true }),
  ],
  [
    /^boot files of (A|B) are back$/,
    ({ world }, [, h]) => Object.assign(world.host(h!), { filesGone: false }),
  ],
  [
    /^syncing at (A|B) takes (\d+)$/,
    ({ world }, [, h, ms]) => Object.assign(world.host(h!), { syncMs: Number(ms), flushMs: Number(ms) }),
  ],
  [
    /^effect (\S+) fails at (A|B)$/,
    ({ world }, [, type, h]) => Object.assign(world.host(h!), { failingEffect: { type, after: 0 } }),
  ],
  [/^a step fails at (A|B)$/, ({ world }, [, h]) => Object.assign(world.host(h!), { failingStep: true })],
  [
    /^witness (cannot|can) write$/,
    ({ world }, [, can]) => {
      for (const member of world.witness.members) member.writes = can === "can";
    },
  ],
  [/^host (A|B) is installed anew$/, ({ world }, [, h]) => world.host(h!).installAnew()],
  [
    /^order start-here (A|B)( with even older disks)?$/,
    ({ world }, [, h, older]) => {
      const words = older === undefined ? {} : { evenOlderDisks: true };
      if (!order(world, world.host(h!), "start-here", { runsNowhereElse: true, ...words }))
        throw new Error(`nobody takes "start-here" at ${h}`);
    },
  ],
  [
    /^standby of (A|B) (cannot|can) load$/,
    ({ world }, [, h, can]) => Object.assign(world.host(h!), { loadFails: can === "cannot" }),
  ],
  [
    /^standby of (A|B) loads for (\d+)$/,
    ({ world }, [, h, ms]) => Object.assign(world.host(h!), { loadTakesMs: Number(ms) }),
  ],
  [
    /^order (protect|stop|switchover|hold|proceed|quit) (A|B)$/,
    (stage, [, name, h]) => {
      if (name === "stop" || name === "quit") stage.stopped = true;
      if (!order(stage.world, stage.world.host(h!), name!)) throw new Error(`nobody takes "${name}" at ${h}`);
    },
  ],
];

type Look = (stage: Stage, words: RegExpExecArray) => boolean;

const runs = (world: World, h: string) => {
  const guest = world.host(h).qemu?.guest;
  return guest !== undefined && world.host(h).qemu!.running;
};

/** What a bystander can see. */
export const EXPECTATIONS: readonly (readonly [RegExp, Look])[] = [
  [/^protected$/, (stage) => stage.isProtected()],
  [/^protected on (A|B)$/, (stage, [, h]) => stage.isProtected() && stage.world.checker.newest!.host === h],
  [/^stranded$/, (stage) => stage.isStranded()],
  [
    /^served by (A|B)$/,
    ({ world: { checker, time } }, [, h]) =>
      checker.newest?.host === h &&
      checker.newest!.alive &&
      checker.last?.timeline === checker.newest?.timeline &&
      time.now - checker.lastReleaseMs < 60,
  ],
  [/^nobody served$/, ({ world: { checker, time } }) => time.now - checker.lastReleaseMs > 150],
  [/^VM runs on (A|B)$/, ({ world }, [, h]) => runs(world, h!)],
  [/^no VM on (A|B)$/, ({ world }, [, h]) => world.host(h!).qemu?.guest === undefined],
  [/^generation (\d+)$/, ({ world }, [, n]) => (world.witness.newest?.generation ?? 1) === Number(n)],
  [/^refused: (.+)$/, ({ world }, [, text]) => world.refused.includes(text!)],
  [/^same VM$/, ({ world }) => (world.seen.get("starts from the disk") ?? 0) === 0],
];

export function matching<T>(
  table: readonly (readonly [RegExp, T])[],
  text: string,
): { of: T; words: RegExpExecArray } {
  for (const [pattern, of] of table) {
    const words = pattern.exec(text);
    if (words !== null) return { of, words };
  }
  throw new Error(`this is no line of a scenario: "${text}"`);
}
