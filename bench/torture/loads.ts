/**
 * What the guest is busy with beside the client that counts. Each can be begun and ended in a running guest.
 */
import type { ChildProcess } from "node:child_process";
import type { Children } from "../../src/lab/children.ts";
import { loadCommand } from "../../src/lab/guest-image.ts";
import { guestAddresses, type Lab } from "../../src/lab/lab.ts";

export const loadNames = ["cpu", "disk", "network"] as const;
export type LoadName = (typeof loadNames)[number];

/** The lab's disks: one with Redis's data, each write synced, and one that the load writes all over. */
export const tortureDisks = [
  { mebibytes: 64, use: "data" },
  { mebibytes: 64, use: "idle" },
] as const;
const LOADED_DISK = "vdb";

/**
 * So many connections at once ask for so many bytes, again and again: some MiB a second, as the epochs let
 * them out.
 */
const READERS = 8;
const ANSWER_BYTES = 16_384;

export interface Load {
  /** Ends it. Fails if it has broken off by itself. */
  end(): Promise<void>;
}

export async function begin(load: LoadName, lab: Lab, children: Children): Promise<Load> {
  switch (load) {
    case "cpu":
      await lab.redis(...loadCommand("busy"));
      return { end: async () => void (await lab.redis(...loadCommand("idle"))) };
    case "disk":
      await lab.loadDisks([LOADED_DISK]);
      return { end: () => lab.loadDisks([]) };
    case "network":
      return await NetworkLoad.begin(lab, children);
  }
}

/** redis-benchmark beside the client: its connections must live on, too. */
class NetworkLoad implements Load {
  private readonly child: ChildProcess;
  private readonly gone: Promise<string>;
  private ended = false;
  private said = "";

  private constructor(child: ChildProcess) {
    this.child = child;
    for (const stream of [child.stdout!, child.stderr!])
      stream.setEncoding("utf8").on("data", (text: string) => {
        this.said = (this.said + text).slice(-500);
      });
    this.gone = new Promise((resolve) =>
      child.once("exit", (status, signal) => {
        this.ended = true;
        resolve(String(signal ?? status));
      }),
    );
  }

  static async begin(lab: Lab, children: Children): Promise<NetworkLoad> {
    const key = "torture";
    await lab.redis("set", key, "x".repeat(ANSWER_BYTES));
    const options = ["-h", guestAddresses[0].ipv4, "-c", String(READERS), "-n", "100000000", "-q"];
    const words = [...lab.network.exec("client"), "redis-benchmark", ...options, "get", key];
    return new NetworkLoad(children.spawn(words, ["ignore", "pipe", "pipe"]));
  }

  async end(): Promise<void> {
    if (this.ended)
      throw new Error(`redis-benchmark, the load, broke off (${await this.gone}): ${this.said}`);
    this.child.kill("SIGKILL");
    await this.gone;
  }
}
