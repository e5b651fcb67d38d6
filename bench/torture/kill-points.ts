/**
 * Both hosts' guardians, made to stand still at a point of the epoch cycle. The other half is
 * kill-point-hook.ts, inside them.
 */
import { execFile } from "node:child_process";
import { closeSync, constants, openSync, writeSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { makeFolder } from "../../src/lab/leftovers.ts";
import type { HostName } from "../../src/lab/namespaces.ts";
import type { EpochPoint } from "../../src/os/epoch-points.ts";

const run = promisify(execFile);
const hookFile = join(import.meta.dirname, "kill-point-hook.ts");
const hosts = ["a", "b"] as const;

export class KillPoints {
  private readonly folder: string;
  private readonly ears = new Map<HostName, Socket>();

  private constructor(folder: string) {
    this.folder = folder;
  }

  static async create(): Promise<KillPoints> {
    const points = new KillPoints(await makeFolder(tmpdir()));
    for (const host of hosts) await points.prepare(host);
    return points;
  }

  /** What must stand before a guardian's command, to make it a test build. */
  words(host: HostName): string[] {
    return ["env", `NODE_OPTIONS=--import=${hookFile}`, `REMUS_KILL_POINTS=${join(this.folder, host)}`];
  }

  /**
   * The guardian of `host` stands still when it reaches `point` for the `arrivals`th time from now.
   * Resolves when it does; fails when it does not in time.
   */
  async standStillAt(host: HostName, point: EpochPoint, arrivals: number, withinMs: number): Promise<void> {
    const ear = this.ears.get(host)!;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(
      () => reject(new Error(`host ${host} did not reach ${point} ${arrivals} times in ${withinMs} ms`)),
      withinMs,
    );
    const heard = () => resolve();
    ear.once("data", heard);
    try {
      // Whole at once: the guardian looks for it at any time.
      const armed = join(this.folder, host, `armed-${point}`);
      await writeFile(`${armed}.new`, String(arrivals));
      await rename(`${armed}.new`, armed);
      await promise;
    } finally {
      clearTimeout(timer);
      ear.off("data", heard);
    }
  }

  /** Lets the thread go on that stands still; at once, if the process is stopped, when it continues. */
  go(host: HostName): void {
    const fifo = openSync(join(this.folder, host, "go"), constants.O_RDWR);
    writeSync(fifo, "x");
    // The byte would be gone with the last that has the FIFO open, were it not for the guardian.
    closeSync(fifo);
  }

  async destroy(): Promise<void> {
    for (const ear of this.ears.values()) ear.destroy();
    await rm(this.folder, { recursive: true, force: true });
  }

  private async prepare(host: HostName): Promise<void> {
    const folder = join(this.folder, host);
    await mkdir(folder);
    await run("mkfifo", [join(folder, "reached"), join(folder, "go")]);
    // Opened for both, so that nobody waits for the other end to be opened.
    const fd = openSync(join(folder, "reached"), constants.O_RDWR | constants.O_NONBLOCK);
    this.ears.set(host, new Socket({ fd, readable: true, writable: false }));
  }
}
