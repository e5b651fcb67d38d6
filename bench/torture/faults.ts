/** What strikes, what must come of it, and how both hosts are made whole again for the next cell. */
import { setTimeout as pause } from "node:timers/promises";
import { otherHost } from "../../src/lab/configuration.ts";
import type { HostName } from "../../src/lab/namespaces.ts";
import type { Dice } from "../disk-soak/dice.ts";
import type { Stage } from "./stage.ts";

export const faultNames = ["kill-host", "kill-backup", "slow-link", "stop-host"] as const;
export type FaultName = (typeof faultNames)[number];

/** One strike: the primary stands still at its point. */
export interface Strike {
  readonly stage: Stage;
  /** The host that ran the VM, and the other one. */
  readonly from: HostName;
  readonly to: HostName;
  readonly qemuPids: Readonly<Record<HostName, number>>;
  readonly dice: Dice;
}

export interface Fault {
  /** Whether the VM runs on the other host afterwards. */
  readonly moves: boolean;
  /** Does it. The primary stands still before and after. */
  strike(strike: Strike): Promise<void>;
  /** Waits until what must come of it has come. The primary has gone on, if it still can. */
  settle(strike: Strike): Promise<void>;
  /** Makes both hosts whole: one runs the VM, the other one is its backup, or is ready to be. */
  mend(strike: Strike): Promise<void>;
}

const alone = (phase: string) => phase === "unprotected";

/** SIGKILL of guardian and QEMU on the host that runs the VM. */
const killHost: Fault = {
  moves: true,
  strike: async ({ stage, from, qemuPids }) => void (await stage.lab.kill("processes", from, qemuPids[from])),
  settle: ({ stage }) => stage.lab.failedOver(),
  mend: async ({ stage }) => void (await stage.lab.returnHost()),
};

/** The same on the backup's host. */
const killBackup: Fault = {
  moves: false,
  strike: async ({ stage, to, qemuPids }) => void (await stage.lab.kill("processes", to, qemuPids[to])),
  settle: ({ stage, from }) => stage.becomes(from, ({ phase }) => alone(phase), "runs the VM alone"),
  mend: async ({ stage }) => void (await stage.lab.returnHost()),
};

/** Bytes a second, a delay each way, and short times in which nothing moves, as TCP makes of a lossy link. Far from the detection time. */
const SLOW = { leastBytes: 4_000_000, mostBytes: 12_000_000, mostDelayMs: 60, stalls: 4, mostStallMs: 250 };

const slowLink: Fault = {
  moves: false,
  strike: async ({ stage, from, dice }) => {
    const proxy = stage.proxies[from];
    await proxy.tell(`rate ${Math.round(dice.between(SLOW.leastBytes, SLOW.mostBytes))}`);
    await proxy.tell(`delay ${Math.round(dice.between(0, SLOW.mostDelayMs))}`);
  },
  settle: async ({ stage, from, dice }) => {
    const proxy = stage.proxies[from];
    const before = await stage.status(from);
    for (let stall = 0; stall < SLOW.stalls; stall++) {
      await pause(dice.between(200, 600));
      const direction = dice.one(["up", "down", ""]);
      await proxy.tell(`pause ${direction}`.trim());
      await pause(dice.between(20, SLOW.mostStallMs));
      await proxy.tell(`resume ${direction}`.trim());
    }
    const enough = (before?.acked ?? 0) + 1;
    const same = before?.generation;
    await stage.becomes(
      from,
      ({ phase, acked = -1, generation }) => phase === "protected" && acked >= enough && generation === same,
      "protects the VM over the slow link",
    );
  },
  mend: async ({ stage, from }) => {
    await stage.proxies[from].tell("rate 1000000000");
    await stage.proxies[from].tell("delay 0");
  },
};

/** SIGSTOP of guardian and QEMU on the host that runs the VM; SIGCONT once the other host runs it. */
const stopHost: Fault = {
  moves: true,
  strike: async ({ stage, from, qemuPids, dice }) => {
    const stops = [
      () => process.kill(qemuPids[from], "SIGSTOP"),
      () => process.kill(stage.lab.primary.pid, "SIGSTOP"),
    ];
    for (const stop of dice.one([0, 1]) === 0 ? stops : stops.reverse()) stop();
  },
  settle: async ({ stage, from, qemuPids, dice }) => {
    const stopped = stage.lab.primary;
    await stage.lab.failedOver();
    await pause(dice.between(0, 500));
    process.kill(qemuPids[from], "SIGCONT");
    process.kill(stopped.pid, "SIGCONT");
  },
  mend: ({ stage, from }) =>
    stage.becomes(
      from,
      ({ role, phase }) => role === "backup" && phase === "waiting",
      "offers itself as the backup after its hang",
    ),
};

export const faults: Readonly<Record<FaultName, Fault>> = {
  "kill-host": killHost,
  "kill-backup": killBackup,
  "slow-link": slowLink,
  "stop-host": stopHost,
};

export function strikeAt(stage: Stage, qemuPids: Strike["qemuPids"], dice: Dice): Strike {
  const from = stage.lab.owner;
  return { stage, from, to: otherHost(from), qemuPids, dice };
}
