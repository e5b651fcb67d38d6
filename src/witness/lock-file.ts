/** Claims in a directory on storage that both hosts share (lock-directory.ts). */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Claim } from "../core/arbiter.ts";
import type { Register } from "./register.ts";

export interface LockFileOptions {
  /** On both hosts the same one, with the mark in it (docs/specs/witness.md). */
  readonly directory: string;
}

/** To the process that does the work. Without `claim`, only the newest is asked for. */
export interface LockFileQuestion {
  readonly id: number;
  readonly vmId: string;
  readonly claim?: Claim;
  /** Whether a claim could be written is asked for, too. */
  readonly check?: boolean;
}

/** From it. */
export interface LockFileAnswer {
  readonly id: number;
  readonly newest?: Claim;
  readonly error?: string;
}

/** Storage may be slow when one of its own servers has just failed over. */
const TRY_MS = 5000;
const PROCESS = fileURLToPath(new URL("lock-file-process.ts", import.meta.url));

interface Waiting {
  readonly resolve: (newest: Claim | undefined) => void;
  readonly reject: (error: Error) => void;
}

export class LockFileRegister implements Register {
  readonly name: string;
  private readonly directory: string;
  private readonly tryMs: number;
  private readonly waiting = new Map<number, Waiting>();
  private lastId = 0;
  /** Started ahead: when it is needed, there is a VM that stands still. */
  private child: ChildProcess;

  constructor({ directory }: LockFileOptions, tryMs = TRY_MS) {
    this.name = `the claims in ${directory}`;
    this.directory = directory;
    this.tryMs = tryMs;
    this.child = this.start();
  }

  async claim(vmId: string, claim: Claim, signal: AbortSignal): Promise<Claim> {
    return (await this.ask({ vmId, claim }, signal))!;
  }

  newest(vmId: string, signal: AbortSignal): Promise<Claim | undefined> {
    return this.ask({ vmId }, signal);
  }

  async check(vmId: string, signal: AbortSignal): Promise<void> {
    await this.ask({ vmId, check: true }, signal);
  }

  close(): void {
    this.child.kill("SIGKILL");
  }

  private async ask(question: Omit<LockFileQuestion, "id">, signal: AbortSignal): Promise<Claim | undefined> {
    signal.throwIfAborted();
    if (!this.child.connected) this.child = this.start();
    const { child } = this;
    const id = ++this.lastId;
    const { promise, resolve, reject } = Promise.withResolvers<Claim | undefined>();
    const giveUp = () => reject(signal.reason);
    const late = setTimeout(() => {
      // One that hangs in the storage does not read; and what it has begun, the next one will find.
      child.kill("SIGKILL");
      reject(new Error(`${this.directory} does not answer within ${this.tryMs} ms`));
    }, this.tryMs);
    signal.addEventListener("abort", giveUp, { once: true });
    this.waiting.set(id, { resolve, reject });
    child.send({ id, ...question } satisfies LockFileQuestion, (error) => error && reject(error));
    try {
      return await promise;
    } finally {
      clearTimeout(late);
      signal.removeEventListener("abort", giveUp);
      this.waiting.delete(id);
    }
  }

  private start(): ChildProcess {
    const child = fork(PROCESS, [this.directory], {
      execArgv: [],
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
    child.on("message", ({ id, newest, error }: LockFileAnswer) => {
      if (error === undefined) this.waiting.get(id)?.resolve(newest);
      else this.waiting.get(id)?.reject(new Error(error));
    });
    const gone = (why: string) => {
      for (const { reject } of this.waiting.values())
        reject(new Error(`the process that reads ${this.directory} ${why}`));
    };
    child.once("error", (error) => gone(`could not be started: ${error.message}`));
    child.once("exit", (status, signal) => gone(`ended with ${signal ?? `status ${status}`}`));
    // A program that asks nothing may end.
    child.unref();
    child.channel?.unref();
    return child;
  }
}
