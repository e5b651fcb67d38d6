/** The lab's client, run in its own namespace. */
import type { ChildProcess } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Children } from "./children.ts";
import type { ClientProgress, ClientSummary } from "./client-report.ts";

const program = (name: string) => [process.execPath, join(import.meta.dirname, name)];

export class ClientProcess {
  /** The newest progress. */
  progress: ClientProgress | undefined;
  private readonly child: ChildProcess;
  private readonly finished = Promise.withResolvers<ClientSummary>();
  private readonly waiters = new Set<() => void>();

  private constructor(child: ChildProcess) {
    this.child = child;
    let errors = "";
    child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      errors = (errors + text).slice(-2000);
    });
    createInterface({ input: child.stdout! }).on("line", (line) => this.take(line));
    child.once("exit", (code, signal) =>
      this.finished.reject(new Error(`the client ended early (${signal ?? code}): ${errors.trim()}`)),
    );
    this.finished.promise.catch(() => {});
  }

  /** Starts a client that counts `key` in the Redis at `host` until `finish`. */
  static ofRedis(
    children: Children,
    prefix: readonly string[],
    { host, port, key }: { readonly host: string; readonly port: number; readonly key: string },
  ): ClientProcess {
    const words = ["--host", host, "--port", String(port), "--key", key];
    return ClientProcess.start(children, [...prefix, ...program("client.ts"), ...words]);
  }

  /** Starts a client of the echo guest whose card has the address `mac`, behind `device`, until `finish`. */
  static ofEcho(
    children: Children,
    prefix: readonly string[],
    { device, mac }: { readonly device: string; readonly mac: string },
  ): ClientProcess {
    const words = ["--device", device, "--mac", mac];
    return ClientProcess.start(children, [...prefix, ...program("echo-client.ts"), ...words]);
  }

  private static start(children: Children, words: readonly string[]): ClientProcess {
    return new ClientProcess(children.spawn([...words, "--until-stdin-closes"], ["pipe", "pipe", "pipe"]));
  }

  /** Resolves once `count` more answers have come. Fails when they do not within `timeoutMs`. */
  answers(count: number, timeoutMs: number): Promise<void> {
    const goal = (this.progress?.acked ?? 0) + count;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(
      () =>
        reject(
          new Error(
            `the client had ${this.progress?.acked ?? 0} answers, not ${goal}, after ${timeoutMs} ms`,
          ),
        ),
      timeoutMs,
    );
    const look = () => {
      if ((this.progress?.acked ?? 0) < goal) return;
      this.waiters.delete(look);
      resolve();
    };
    this.waiters.add(look);
    look();
    this.finished.promise.catch(reject);
    return promise.finally(() => clearTimeout(timer));
  }

  /** Lets it end in order. */
  finish(): Promise<ClientSummary> {
    this.child.stdin!.end();
    return this.finished.promise;
  }

  kill(): void {
    this.child.kill("SIGKILL");
  }

  private take(line: string): void {
    const message = JSON.parse(line) as ClientProgress | ClientSummary;
    if (message.kind === "summary") {
      this.finished.resolve(message);
      return;
    }
    this.progress = message;
    for (const waiter of this.waiters) waiter();
  }
}
