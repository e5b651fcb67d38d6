/**
 * The full circle, again and again, under the eyes of one TCP client: host A dies, host B carries on, host A
 * returns and is brought up to date, and the VM moves home by a planned switchover. RAM and disk are compared
 * after each protection.
 */
import { writeFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import type { SyncSummary } from "../guardian/control/status.ts";
import type { ClientProcess } from "./client-process.ts";
import type { ClientSummary } from "./client-report.ts";
import { random } from "./demo.ts";
import { longestGap } from "./gap-watch.ts";
import { Lab } from "./lab.ts";
import { lastWords } from "./last-words.ts";

export interface CircleOptions {
  readonly rounds: number;
  readonly diskMib: number;
  /** Chooses the instants of the kills. */
  readonly seed: number;
  readonly load: "idle" | "busy";
  readonly json?: string | undefined;
  /** Where each step is told. */
  readonly say: (text: string) => void;
}

export interface CircleRound {
  /** How the returned host's disk was brought up to date, and for how many bytes on the wire. */
  readonly resyncWay: string;
  readonly resyncBytes: number;
  /** The same for the host that gave the VM away. */
  readonly handBackWay: string;
  readonly handBackBytes: number;
  /** The client's longest time without an answer around the failure, and around the switchover. */
  readonly failoverGapMs: number;
  readonly switchoverGapMs: number;
  /** RAM pages and disk blocks in which the hosts differed when they were compared. */
  readonly mismatches: number;
}

/** What `--json` writes. */
export interface CircleReport {
  readonly rounds: readonly CircleRound[];
  readonly firstSyncBytes: number;
  readonly mismatches: number;
  readonly client: Pick<
    ClientSummary,
    "connections" | "resets" | "acked" | "lost" | "wentBack" | "repeated" | "longestGapMs"
  >;
}

/** The kill comes at some instant of so many milliseconds of protection. */
const KILL_WITHIN_MS = 3_000;
const GRACE_MS = 30_000;
/** Enough to see that the client goes on. */
const ANSWERS = 20;

/** Runs the circle. Returns the report; its lab is gone when this settles, however it ends. */
export async function runCircle(options: CircleOptions, onLab: (lab: Lab) => void): Promise<CircleReport> {
  const lab = await Lab.create({
    load: options.load,
    disks: [{ mebibytes: options.diskMib, use: "data" }],
  });
  onLab(lab);
  try {
    const report = await new Circle(lab, options).run();
    if (options.json !== undefined) await writeFile(options.json, `${JSON.stringify(report, null, 2)}\n`);
    return report;
  } catch (error) {
    options.say(await lastWords(lab));
    throw error;
  } finally {
    await lab.destroy();
  }
}

class Circle {
  private readonly lab: Lab;
  private readonly options: CircleOptions;
  private readonly beganMs = performance.now();
  private mismatches = 0;

  constructor(lab: Lab, options: CircleOptions) {
    this.lab = lab;
    this.options = options;
  }

  async run(): Promise<CircleReport> {
    const { lab, options } = this;
    this.say("booting the VM on host A, its standby on host B");
    await lab.start();
    const client = lab.client();
    await client.answers(ANSWERS, GRACE_MS);
    await lab.protect();
    const first = await this.compared("the VM is protected");
    await client.answers(ANSWERS, GRACE_MS);
    const rounds: CircleRound[] = [];
    for (let round = 1; round <= options.rounds; round++) rounds.push(await this.round(round, client));
    const { connections, resets, acked, lost, wentBack, repeated, longestGapMs } = await client.finish();
    return {
      rounds,
      firstSyncBytes: first.wireBytes,
      mismatches: this.mismatches,
      client: { connections, resets, acked, lost, wentBack, repeated, longestGapMs },
    };
  }

  private async round(round: number, client: ClientProcess): Promise<CircleRound> {
    const { lab, options } = this;
    const before = this.mismatches;
    const afterMs = KILL_WITHIN_MS * random(options.seed * 1000 + round);
    await pause(afterMs);
    const failure = await longestGap(client, async () => {
      await lab.kill("power");
      this.say(`round ${round}: host A loses power, ${(afterMs / 1000).toFixed(2)} s on`);
      await lab.failedOver();
      await client.answers(ANSWERS, GRACE_MS);
    });
    this.say(`the VM runs on host B; the client waited ${failure.gapMs.toFixed(0)} ms`);
    await lab.returnHost();
    this.say("host A is back, with the disk it had; protecting towards it");
    await lab.protect();
    const resync = await this.compared("the VM is protected by host A");
    await client.answers(ANSWERS, GRACE_MS);
    const move = await longestGap(client, async () => {
      await lab.switchover();
      await client.answers(ANSWERS, GRACE_MS);
    });
    this.say(`the VM is home on host A; the client waited ${move.gapMs.toFixed(0)} ms`);
    await lab.untilProtected();
    const handBack = await this.compared("the VM is protected by host B");
    await client.answers(ANSWERS, GRACE_MS);
    return {
      resyncWay: resync.way,
      resyncBytes: resync.wireBytes,
      handBackWay: handBack.way,
      handBackBytes: handBack.wireBytes,
      failoverGapMs: failure.gapMs,
      switchoverGapMs: move.gapMs,
      mismatches: this.mismatches - before,
    };
  }

  /** Says what the sync has cost and compares RAM and disk, with the VM held meanwhile. */
  private async compared(what: string): Promise<SyncSummary> {
    const { lab } = this;
    const { syncs } = await lab.primary.control.primaryStatus();
    const sync = syncs[0];
    if (sync === undefined) throw new Error("the primary tells of no sync of its disk");
    this.say(
      `${what}; disk sync by ${sync.way} took ${sync.seconds.toFixed(1)} s and ${sync.wireBytes} bytes on the wire, because ${sync.why}`,
    );
    const { epoch, differing, disks } = await lab.ramCheck(0, { disks: true });
    const blocks = disks.reduce((sum, { offsets }) => sum + offsets.length, 0);
    this.mismatches += differing.length + blocks;
    this.say(
      `compared at checkpoint ${epoch}: ${differing.length} RAM pages and ${blocks} disk blocks differ`,
    );
    return sync;
  }

  private say(text: string): void {
    const seconds = ((performance.now() - this.beganMs) / 1000).toFixed(1).padStart(6);
    this.options.say(`${seconds} s  ${text}`);
  }
}

/** Whether nothing went wrong. */
export function circleSucceeded({ client, mismatches }: CircleReport): boolean {
  const { connections, resets, lost, wentBack, repeated } = client;
  return connections === 1 && resets + lost + wentBack + repeated + mismatches === 0;
}

/** The report as lines for people. */
export function circleSummary(report: CircleReport): string {
  const { client, mismatches, rounds } = report;
  const ms = (value: number) => `${value.toFixed(0).padStart(4)} ms`;
  const lines = [
    "",
    circleSucceeded(report) ? "The VM went round, and nobody noticed." : "Something went wrong; see above.",
    ...rounds.map(
      (round, i) =>
        `  round ${String(i + 1).padEnd(4)} failover gap ${ms(round.failoverGapMs)}, switchover gap ${ms(round.switchoverGapMs)}; ` +
        `return by ${round.resyncWay}, ${round.resyncBytes} bytes; hand-back by ${round.handBackWay}, ${round.handBackBytes} bytes; ` +
        `${round.mismatches} mismatches`,
    ),
    `  client     ${client.connections} connection, ${client.resets} resets, ${client.acked} answers, ${client.lost} lost, ${client.wentBack} went back`,
    `  compared   RAM and disk, ${2 * rounds.length + 1} times: ${mismatches} mismatches`,
    "",
  ];
  return `${lines.join("\n")}\n`;
}
