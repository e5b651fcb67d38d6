/**
 * What the host's signals mean to a guardian (docs/running.md). A host sends them for many reasons, and most
 * of them are no reason for a VM to end: a terminal that is closed, a log that is rotated, a limit that is
 * reached.
 */
import type { Log } from "./log.ts";

/** A role, as far as signals reach it. */
export interface Attended {
  readonly ending: {
    /** In order: nothing that can be saved is lost. May be called again. */
    begin(): void;
    now(): void;
  };
  /** An exception that nobody has caught. */
  uncaught(error: Error): void;
}

type Meaning = "end" | "end at once" | "nothing";

/** SIGPIPE is ignored by Node; SIGKILL and SIGSTOP cannot be caught. */
export const meanings: Readonly<Partial<Record<NodeJS.Signals, Meaning>>> = {
  SIGTERM: "end",
  SIGINT: "end",
  SIGQUIT: "end at once",
  SIGHUP: "nothing",
  SIGUSR1: "nothing",
  SIGUSR2: "nothing",
  SIGALRM: "nothing",
  SIGTSTP: "nothing",
  SIGXCPU: "nothing",
  SIGXFSZ: "nothing",
  SIGVTALRM: "nothing",
  SIGPROF: "nothing",
  SIGIO: "nothing",
  SIGPWR: "nothing",
  SIGTTIN: "nothing",
  SIGTTOU: "nothing",
  SIGSTKFLT: "nothing",
};

export class HostSignals {
  private readonly log: Log;
  private readonly ended = new AbortController();
  private role: Attended | undefined;
  private atOnce = false;
  private readonly leave = Promise.withResolvers<void>();

  constructor(log: Log) {
    this.log = log;
    for (const [signal, meaning] of Object.entries(meanings)) {
      process.on(signal, () => this.heard(signal, meaning));
    }
    // Node would write it to stderr, and wait for whoever reads that.
    process.removeAllListeners("warning");
    process.on("warning", ({ message }) => log.warn(message));
    process.on("uncaughtException", (error) => this.uncaught(error));
    // A side task that failed: whoever waited for it has not heard of it.
    process.on("unhandledRejection", (error) =>
      log.error(`internal error, please report it: ${error instanceof Error ? error.stack : String(error)}`),
    );
  }

  /** Aborted when somebody has asked this guardian to end. */
  get ending(): AbortSignal {
    return this.ended.signal;
  }

  /** Resolves when this guardian is to end at once, and has no role that could be told. */
  get left(): Promise<void> {
    return this.leave.promise;
  }

  /** Tells this role from now on. */
  attend(role: Attended): void {
    this.role = role;
    if (this.atOnce) role.ending.now();
    else if (this.ending.aborted) role.ending.begin();
  }

  private heard(signal: string, meaning: Meaning): void {
    const { ending, log, role } = this;
    if (meaning === "nothing") {
      log.info(`${signal} was sent; it changes nothing here`);
      return;
    }
    const again = ending.aborted;
    this.ended.abort(new Error(`${signal} was sent`));
    if (again || meaning === "end at once") {
      log.warn(`${signal} was sent${again ? " again" : ""}: this guardian ends at once`);
      this.atOnce = true;
      if (role === undefined) this.leave.resolve();
      else role.ending.now();
      return;
    }
    log.warn(`${signal} was sent: this guardian ends in order; a second one ends it at once`);
    role?.ending.begin();
  }

  private uncaught(error: Error): void {
    this.log.error(`internal error, please report it: nobody has caught ${error.stack}`);
    // Before there is a role there is no VM of ours, and no state worth keeping.
    if (this.role === undefined) process.exit(2);
    this.role.uncaught(error);
  }
}
