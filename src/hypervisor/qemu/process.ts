/** A QEMU process as the guardian's child: started, watched, and not outliving its guardian. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, fstatSync, openSync, readFileSync, rmSync } from "node:fs";
import { getPriority } from "node:os";
import { join } from "node:path";
import { lastWords } from "./last-words.ts";
import { Qmp } from "./qmp.ts";

/** The nice value of a guardian that may have it; QEMU is started at the one before. */
export const guardianNice = -10;

/** Between the end of a QEMU's monitor and that of its process. */
const EXIT_MS = 2_000;

export interface QemuLaunch {
  /** The QEMU command with its arguments, without the monitors. */
  readonly command: readonly string[];
  /** A library to preload (aids for software emulation). */
  readonly preload?: string | undefined;
  /** For sockets and QEMU's own messages. */
  readonly runDirectory: string;
  /** Kill QEMU when this process dies. Off only where a test needs a QEMU that outlives its guardian. */
  readonly bindLifetimes: boolean;
}

export class QemuProcess {
  readonly qmp: Qmp;
  /** A monitor of its own for the watchdog: it answers out of band while the first is busy. */
  readonly watchdog: Qmp;
  readonly pid: number;
  /** Settles when the process is gone, with a sentence that says how. */
  readonly exited: Promise<string>;
  private readonly child: ChildProcess;

  private constructor(child: ChildProcess, exited: Promise<string>, qmp: Qmp, watchdog: Qmp) {
    this.child = child;
    this.pid = child.pid!;
    this.exited = exited;
    this.qmp = qmp;
    this.watchdog = watchdog;
  }

  /** Paths of the two monitor sockets, to be put on QEMU's command line. */
  static monitorPaths(runDirectory: string): [string, string] {
    return [join(runDirectory, "qmp.sock"), join(runDirectory, "qmp-watchdog.sock")];
  }

  /**
   * Starts QEMU and connects to both monitors. Fails with the end of QEMU's own messages when it does not
   * come up, and leaves none behind. QEMU writes them into its log itself: so nothing it says is lost,
   * whichever of the two ends first.
   */
  static async start(launch: QemuLaunch): Promise<QemuProcess> {
    const monitors = QemuProcess.monitorPaths(launch.runDirectory);
    for (const path of monitors) rmSync(path, { force: true });
    const log = join(launch.runDirectory, "qemu.log");
    const file = openLog(log);
    const words = file === undefined ? () => "" : lastWords(log, fstatSync(file).size);
    const bind = launch.bindLifetimes ? ["setpriv", "--pdeathsig", "KILL", "--"] : [];
    const nice = getPriority() === guardianNice ? ["nice", "-n", String(-guardianNice)] : [];
    const [program, ...args] = [...nice, ...bind, ...launch.command];
    const child = spawn(program!, args, {
      stdio: ["ignore", file ?? "ignore", file ?? "ignore"],
      // A session of its own: what a terminal, a shell or a service manager sends to the guardian's group is
      // not for the VM.
      detached: true,
      env: launch.preload === undefined ? process.env : { ...process.env, LD_PRELOAD: launch.preload },
    });
    if (file !== undefined) closeSync(file);
    const exited = new Promise<string>((resolve) => {
      child.once("error", (error) => resolve(`QEMU could not be started: ${error.message}`));
      child.once("exit", (code, signal) =>
        resolve(`QEMU ended (${signal ?? `exit status ${code}`})${words()}`),
      );
    });
    const connected = Promise.all([Qmp.connect(monitors[0]), Qmp.connect(monitors[1], { oob: true })]);
    const first = await Promise.race([connected, exited]).catch(async (error: Error) => {
      // The monitor closes a moment before the process has ended, and the process knows why.
      const how = await soon(exited);
      child.kill("SIGKILL");
      return how ?? `QEMU does not answer: ${error.message}${words()}`;
    });
    if (typeof first === "string") {
      connected.catch(() => {});
      throw new Error(first);
    }
    for (const monitor of first) monitor.explain(() => soon(exited));
    return new QemuProcess(child, exited, ...first);
  }

  /**
   * What the kernel says of the process, a letter of proc(5): `T` and `t` stand for stopped, `Z` for dead.
   * Undefined: it is gone.
   */
  get processState(): string | undefined {
    try {
      return /\) (\S)/.exec(readFileSync(`/proc/${this.pid}/stat`, "latin1"))?.[1];
    } catch {
      return undefined;
    }
  }

  /** SIGKILL: a VM that must not run is not asked. */
  kill(): void {
    this.child.kill("SIGKILL");
  }
}

/** What `exited` says, if it says it soon: a process takes a moment to go after its sockets are closed. */
async function soon(exited: Promise<string>): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  const timer = setTimeout(resolve, EXIT_MS, undefined);
  try {
    return await Promise.race([exited, promise]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * For what QEMU says. Undefined where no file can be made, on a full file system for example: then it is
 * lost.
 */
function openLog(path: string): number | undefined {
  try {
    return openSync(path, "a");
  } catch {
    return undefined;
  }
}
