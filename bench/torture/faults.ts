/** What strikes, what must come of it, and how both hosts are made whole again for the next cell. */
import { setTimeout as pause } from "node:timers/promises";
import { otherHost } from "../../src/lab/configuration.ts";
import type { HostName } from "../../src/lab/namespaces.ts";
import type { Dice } from "../disk-soak/dice.ts";
import type { Stage, Status } from "./stage.ts";

export const faultNames = [
  "kill-host",
  "kill-backup",
  "link-cut",
  "slow-link",
  "stop-host",
  "half-open",
  // Beyond the design's table.
  "stop-backup",
  "hung-vm",
  "hung-standby",
] as const;
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
  /** Whether the VM runs on the other host afterwards; `either`: that is for the witness to decide. */
  readonly moves: boolean | "either";
  /** Does it. The primary stands still before and after. */
  strike(strike: Strike): Promise<void>;
  /** Waits until what must come of it has come. The primary has gone on, if it still can. */
  settle(strike: Strike): Promise<void>;
  /** Makes both hosts whole: one runs the VM, the other one is its backup, or is ready to be. */
  mend(strike: Strike): Promise<void>;
}

/** Runs the VM with its output free, and no backup could take it over; it may be on its way to one again. */
const alone = ({ role, phase }: Status) =>
  role === "primary" && ["ending", "unprotected", "connecting", "syncing"].includes(phase);
const goesOnAlone = (stage: Stage, host: HostName) => stage.becomes(host, alone, "runs the VM alone");

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
  settle: ({ stage, from }) => goesOnAlone(stage, from),
  mend: async ({ stage }) => void (await stage.lab.returnHost()),
};

/**
 * Bytes a second, a delay each way, and short times in which nothing moves, as TCP makes of a lossy link. Far
 * from the detection time.
 */
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
  mend: ({ stage }) => loserIsBackup(stage),
};

/** The cable between the hosts is out: nothing is closed, and nothing arrives. Both ask the witness. */
const linkCut: Fault = {
  moves: "either",
  strike: ({ stage }) => stage.lab.cut("link"),
  settle: async ({ stage }) => void (await stage.lab.decided()),
  mend: async ({ stage }) => {
    await stage.lab.mend("link");
    await loserIsBackup(stage);
  },
};

/**
 * One side knows what the other does not: it sees the connection reset, while to the other it seems to live
 * and nothing more is heard on it; or bytes go through in one direction alone.
 */
const halfOpen: Fault = {
  moves: "either",
  strike: ({ stage, from, dice }) =>
    stage.proxies[from].tell(dice.one(["half-open client", "half-open target", "pause up", "pause down"])),
  settle: async ({ stage }) => void (await stage.lab.decided()),
  mend: async ({ stage, from }) => {
    await stage.proxies[from].tell("resume");
    await loserIsBackup(stage);
  },
};

/** SIGSTOP of guardian and QEMU on the backup's host; SIGCONT once the VM runs on without it. */
const stopBackup: Fault = {
  moves: false,
  strike: async ({ stage, to, qemuPids }) => {
    process.kill(qemuPids[to], "SIGSTOP");
    process.kill(stage.lab.backup.pid, "SIGSTOP");
  },
  settle: async ({ stage, from, to, qemuPids, dice }) => {
    await goesOnAlone(stage, from);
    await pause(dice.between(0, 500));
    process.kill(qemuPids[to], "SIGCONT");
    process.kill(stage.lab.backup.pid, "SIGCONT");
  },
  mend: ({ stage }) => loserIsBackup(stage),
};

/** SIGSTOP of the VM's QEMU alone: its guardian is well, and beats. */
const hungVm: Fault = {
  moves: true,
  strike: async ({ from, qemuPids }) => void process.kill(qemuPids[from], "SIGSTOP"),
  settle: ({ stage }) => stage.lab.failedOver(),
  mend: async ({ stage, from }) => {
    // It has ended with its VM.
    await stage.lab.guardianOf(from).exited;
    await stage.lab.returnHost();
  },
};

/** SIGSTOP of the standby alone: nothing is wrong yet, but the next failure would find no backup. */
const hungStandby: Fault = {
  moves: false,
  strike: async ({ to, qemuPids }) => void process.kill(qemuPids[to], "SIGSTOP"),
  settle: ({ stage, from }) => goesOnAlone(stage, from),
  mend: ({ stage }) => loserIsBackup(stage),
};

/** Whichever it is, it finds out by itself. */
function loserIsBackup(stage: Stage): Promise<void> {
  return stage.becomes(
    otherHost(stage.lab.owner),
    ({ role, phase }) => role === "backup" && phase !== "stood-down",
    "offers itself as the backup",
  );
}

export const faults: Readonly<Record<FaultName, Fault>> = {
  "kill-host": killHost,
  "kill-backup": killBackup,
  "link-cut": linkCut,
  "slow-link": slowLink,
  "stop-host": stopHost,
  "half-open": halfOpen,
  "stop-backup": stopBackup,
  "hung-vm": hungVm,
  "hung-standby": hungStandby,
};

export function strikeAt(stage: Stage, qemuPids: Strike["qemuPids"], dice: Dice): Strike {
  const from = stage.lab.owner;
  return { stage, from, to: otherHost(from), qemuPids, dice };
}
