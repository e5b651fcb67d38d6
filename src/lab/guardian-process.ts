/** A guardian of the lab: its configuration file, its process, and a line to its control socket. */
import type { ChildProcess } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ControlClient, OrderFailed } from "../guardian/control/client.ts";
import type { HeardEvent } from "../guardian/control/events.ts";
import type { Children } from "./children.ts";

const START_TIMEOUT_MS = 30_000;
const mainFile = join(import.meta.dirname, "../guardian/main.ts");

export class GuardianProcess {
  readonly pid: number;
  readonly control: ControlClient;
  readonly logFile: string;
  /** Settles with the exit status or the signal's name. */
  readonly exited: Promise<number | string>;
  private readonly child: ChildProcess;
  private running = true;

  private constructor(
    child: ChildProcess,
    exited: Promise<number | string>,
    control: ControlClient,
    logFile: string,
  ) {
    this.child = child;
    this.pid = child.pid!;
    this.exited = exited;
    this.control = control;
    this.logFile = logFile;
    void exited.then(() => {
      this.running = false;
    });
  }

  /**
   * Starts `node src/guardian/main.ts` with `config` behind `prefix` (the words that enter a namespace) and
   * waits until it has taken up its role. Fails with what it printed.
   */
  static async start(
    directory: string,
    config: Record<string, unknown>,
    prefix: readonly string[],
    children: Children,
    onEvent: (event: HeardEvent) => void = () => {},
  ): Promise<GuardianProcess> {
    await mkdir(directory, { recursive: true });
    const configFile = join(directory, "guardian.json");
    const logFile = join(directory, "guardian.log");
    await writeFile(configFile, JSON.stringify(config, null, 2));
    const log = openSync(logFile, "a");
    const child = children.spawn([...prefix, process.execPath, mainFile, configFile], ["ignore", log, log]);
    closeSync(log);
    const exited = new Promise<number | string>((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("exit", (code, signal) => resolve(signal ?? code ?? 0));
    });
    let over = false;
    void exited.then(() => {
      over = true;
    });
    const connected = connectWhenThere(join(directory, "control.sock"), onEvent, () => over)
      .then(inItsRole)
      .catch(async (error: Error) => {
        // It is ending, and says more than that it hung up.
        if (error instanceof OrderFailed && error.code === "gone") await exited;
        throw error;
      });
    const first = await Promise.race([connected, exited]);
    if (!(first instanceof ControlClient)) {
      connected.catch(() => {});
      throw new Error((await readFile(logFile, "utf8")).trim().split("\n").slice(-8).join("\n"));
    }
    await first.watch();
    return new GuardianProcess(child, exited, first, logFile);
  }

  get alive(): boolean {
    return this.running;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.running) this.child.kill(signal);
  }

  /** SIGKILL, and wait until it is gone. */
  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.exited;
    this.control.close();
  }
}

/** While it asks the witness what it is, a guardian answers no more than that. */
async function inItsRole(control: ControlClient): Promise<ControlClient> {
  const deadline = Date.now() + START_TIMEOUT_MS;
  while ((await control.status()).role === "starting") {
    if (Date.now() > deadline) throw new Error(`the guardian has no role after ${START_TIMEOUT_MS} ms`);
    await new Promise((again) => setTimeout(again, 20));
  }
  return control;
}

/**
 * The control socket is there once the guardian has looked at the host and started QEMU, or must ask the
 * witness first.
 */
async function connectWhenThere(
  path: string,
  onEvent: (event: HeardEvent) => void,
  over: () => boolean,
): Promise<ControlClient> {
  const deadline = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    try {
      return await ControlClient.connect(path, onEvent);
    } catch (error) {
      if (over() || Date.now() > deadline) throw error;
      await new Promise((again) => setTimeout(again, 10));
    }
  }
}
