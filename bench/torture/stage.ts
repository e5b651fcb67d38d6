/**
 * A lab made for striking: guardians that stand still at points of the epoch cycle, and links that lead
 * through fault proxies.
 */
import type { BackupStatus, PrimaryStatus } from "../../src/guardian/control/status.ts";
import { Children } from "../../src/lab/children.ts";
import { otherHost } from "../../src/lab/configuration.ts";
import { Lab } from "../../src/lab/lab.ts";
import { type HostName, labAddresses } from "../../src/lab/namespaces.ts";
import type { ProxyProcess } from "../../src/lab/proxy-process.ts";
import { KillPoints } from "./kill-points.ts";
import { tortureDisks } from "./loads.ts";

/** Each host's guardian finds the other one behind a proxy in its own namespace. */
const PROXY = "127.0.0.1:7001";
const REPLICATION_PORT = 7000;
/**
 * Patient: threads of a small machine that runs two guests under software emulation stand still for some 100
 * ms now and then, and a failover that nobody has asked for would spoil a cell.
 */
const DETECTION_MS = 1000;
const HUNG_MS = 2000;
const GRACE_MS = 30_000;
const STATUS_TIMEOUT_MS = 3_000;

/** What a guardian says of itself. */
export type Status = PrimaryStatus | BackupStatus;

export class Stage {
  readonly lab: Lab;
  readonly points: KillPoints;
  readonly proxies: Readonly<Record<HostName, ProxyProcess>>;
  /** Of the load and the watch; the lab has its own. */
  readonly children: Children;
  /** Redis's name for its own process: another one after a boot. */
  readonly bornAs: string;

  private constructor(lab: Lab, points: KillPoints, proxies: Stage["proxies"], bornAs: string) {
    this.lab = lab;
    this.points = points;
    this.proxies = proxies;
    this.bornAs = bornAs;
    this.children = new Children();
  }

  /** A booted guest on host A, not protected yet. */
  static async set(onLab: (lab: Lab) => void): Promise<Stage> {
    const points = await KillPoints.create();
    let lab: Lab | undefined;
    try {
      lab = await Lab.create({
        disks: tortureDisks,
        detectionMs: DETECTION_MS,
        retryMs: 500,
        hungMs: HUNG_MS,
        replicationPeer: PROXY,
        guardianWords: (host) => points.words(host),
      });
      onLab(lab);
      const proxies = { a: await proxyOn(lab, "a"), b: await proxyOn(lab, "b") };
      await lab.start();
      return new Stage(lab, points, proxies, await processOfRedis(lab));
    } catch (error) {
      await lab?.destroy();
      await points.destroy();
      throw error;
    }
  }

  async strikeDown(): Promise<void> {
    await this.children.end();
    await this.lab.destroy();
    await this.points.destroy();
  }

  /** Undefined if the guardian is gone, or does not answer. */
  async status(host: HostName): Promise<Status | undefined> {
    const guardian = host === this.lab.owner ? this.lab.primary : this.lab.backup;
    if (!guardian.alive) return undefined;
    const late = new Promise<undefined>((resolve) => {
      setTimeout(resolve, STATUS_TIMEOUT_MS, undefined).unref();
    });
    return await Promise.race([guardian.control.statusInRole().catch(() => undefined), late]);
  }

  async becomes(
    host: HostName,
    right: (status: Status) => boolean,
    what: string,
    withinMs = GRACE_MS,
  ): Promise<void> {
    const deadline = performance.now() + withinMs;
    for (;;) {
      const status = await this.status(host);
      if (status !== undefined && right(status)) return;
      if (performance.now() > deadline)
        throw new Error(
          `not within ${withinMs} ms: host ${host} ${what}; it is ${status === undefined ? "not to be asked" : `${status.role}, ${status.phase}`}`,
        );
      await new Promise((again) => setTimeout(again, 20));
    }
  }

  /** The VM is the one that was booted, and no other. */
  async sameVm(): Promise<boolean> {
    return (await processOfRedis(this.lab)) === this.bornAs;
  }
}

function proxyOn(lab: Lab, host: HostName): Promise<ProxyProcess> {
  return lab.proxy(PROXY, `${labAddresses.replication[otherHost(host)]}:${REPLICATION_PORT}`, host);
}

async function processOfRedis(lab: Lab): Promise<string> {
  const line = /run_id:(\w+)/.exec(await lab.redis("info", "server"));
  if (line === null) throw new Error("the guest's Redis does not say which process it is");
  return line[1]!;
}
