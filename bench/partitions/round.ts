/**
 * One round: the hosts lose each other, one goes on, they find each other again, and the VM is protected
 * again.
 */
import type { BackupStatus, PrimaryStatus } from "../../src/guardian/control/status.ts";
import { Children } from "../../src/lab/children.ts";
import type { ClientSummary } from "../../src/lab/client-report.ts";
import { otherHost } from "../../src/lab/configuration.ts";
import { longestGap } from "../../src/lab/gap-watch.ts";
import { type Lab, processRuns } from "../../src/lab/lab.ts";
import type { HostName } from "../../src/lab/namespaces.ts";
import { monotonicMs } from "../../src/os/monotonic.ts";
import { clientHarmed } from "../torture/cell-run.ts";
import { FrameWatch, type GuestFrame, judge } from "../torture/frame-watch.ts";

export const partitionKinds = ["link", "cut-off"] as const;
type PartitionKind = (typeof partitionKinds)[number];

const GRACE_MS = 30_000;
const ANSWERS = 20;
/** A host that is cut off has so long to do harm, after the other one has begun. */
const APART_MS = 1_500;
/** Of a comparison of CLOCK_MONOTONIC with CLOCK_REALTIME by their milliseconds. */
const CLOCKS_MS = 2;

export interface Round {
  readonly kind: PartitionKind;
  readonly from: HostName;
  readonly to: HostName;
  /** The client's longest wait, from the cut until it has gone on. */
  readonly gapMs: number;
  /** What the old VM would have liked to send, at the end of its time apart. */
  readonly heldBytes: number;
  /** Frames of the old owner after the witness's word, or after the new owner's first one. */
  readonly late: number;
  readonly client: Pick<ClientSummary, "acked" | "connections" | "lost" | "repeated" | "resets" | "wentBack">;
  readonly wrong: readonly string[];
}

export class Partitions {
  private readonly lab: Lab;
  private readonly children = new Children();

  /** @param lab of two hosts, protected when the first round is played */
  constructor(lab: Lab) {
    this.lab = lab;
  }

  async end(): Promise<void> {
    await this.children.end();
    await this.lab.destroy();
  }

  /** Throws if a round cannot be played to its end; what is wrong in the end is told. */
  async play(kind: PartitionKind): Promise<Round> {
    const { lab } = this;
    const from = lab.owner;
    const wrong: string[] = [];
    await lab.protectAgain();
    const qemuPid = await lab.qemuPid(from);
    const watch = await FrameWatch.start(lab, this.children);
    const client = lab.client();
    await client.answers(ANSWERS, GRACE_MS);

    const { gapMs } = await longestGap(client, async () => {
      if (kind === "cut-off") await lab.cut("witness", from);
      await lab.cut("link");
      await lab.decided();
      await client.answers(ANSWERS, GRACE_MS);
    });
    const to = lab.owner;
    const granted = await this.grantedNs(to);
    let heldBytes = 0;
    if (kind === "cut-off") {
      if (to === from) throw new Error(`host ${from} went on without the witness`);
      await new Promise((over) => setTimeout(over, APART_MS));
      const apart = await this.said(from);
      heldBytes = apart.role === "primary" ? apart.heldBytes : 0;
      if (apart.phase !== "arbitrating" || !processRuns(qemuPid))
        wrong.push(`the old VM should stand by on host ${from}, which is ${apart.phase}`);
      // Otherwise nothing was to be seen here.
      if (heldBytes === 0) wrong.push("the old VM had nothing to send");
    }
    await lab.mend("witness", from);
    await lab.mend("link");

    await lab.protectAgain();
    await client.answers(ANSWERS, GRACE_MS);
    const loser = await this.said(otherHost(to));
    if (loser.role !== "backup") wrong.push(`host ${otherHost(to)} is ${loser.role}, and no backup`);
    if (to !== from && processRuns(qemuPid)) wrong.push("the old VM runs");
    const { epoch, differing, disks } = await lab.ramCheck(0, { disks: true });
    if (differing.length + disks.reduce((sum, { offsets }) => sum + offsets.length, 0) > 0)
      wrong.push(`the hosts differ at checkpoint ${epoch}`);
    const summary = await client.finish();
    wrong.push(...clientHarmed(summary));
    const late = lateFrames(await watch.frames(), from, to, granted);
    if (late > 0) wrong.push(`${late} frames left host ${from} when it had lost the VM`);
    const { acked, connections, lost, repeated, resets, wentBack } = summary;
    const counts = { acked, connections, lost, repeated, resets, wentBack };
    return { kind, from, to, gapMs, heldBytes, late, client: counts, wrong };
  }

  private said(host: HostName): Promise<PrimaryStatus | BackupStatus> {
    return this.lab.guardianOf(host).control.statusInRole();
  }

  /** When the witness gave the VM to `host`, by CLOCK_REALTIME; undefined if `host` had it before. */
  private async grantedNs(host: HostName): Promise<bigint | undefined> {
    const { failover } = await this.said(host);
    if (failover === undefined) return undefined;
    const agoMs = monotonicMs() - failover.grantedAtMs!;
    return BigInt(Math.round(Date.now() - agoMs + CLOCKS_MS)) * 1_000_000n;
  }
}

/**
 * Frames of the old owner from the witness's word on, or after the first one of the new owner; where the
 * owner stays: any of the other host.
 */
export function lateFrames(
  frames: readonly GuestFrame[],
  from: HostName,
  to: HostName,
  grantedNs: bigint | undefined,
): number {
  if (to === from) return frames.filter(({ host }) => host !== from).length;
  const afterWord = frames.filter(
    ({ host, atNs }) => host === from && grantedNs !== undefined && atNs > grantedNs,
  );
  return Math.max(judge(frames, from).late, afterWord.length);
}
