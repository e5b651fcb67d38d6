// A witness's server in a process of its own, on a free port of the loopback.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";

const MAIN = new URL("../../src/witness/main.ts", import.meta.url).pathname;
const deadline = () => AbortSignal.timeout(20_000);

export function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "remus-witness-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Its exit status and what it said, when it could not be started. */
export async function refusal(...args: string[]): Promise<{ status: number | null; text: string }> {
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ["ignore", "ignore", "pipe"] });
  let text = "";
  child.stderr.setEncoding("utf8").on("data", (more: string) => {
    text += more;
  });
  const [status] = (await once(child, "close", { signal: deadline() })) as [number | null];
  return { status, text };
}

export class WitnessProcess {
  readonly url: string;
  readonly port: number;
  private readonly child: ChildProcess;
  private readonly said: string[];

  private constructor(child: ChildProcess, url: string, said: string[]) {
    this.child = child;
    this.url = url;
    this.port = Number(new URL(url).port);
    this.said = said;
  }

  static async start(t: TestContext, file: string, ...more: string[]): Promise<WitnessProcess> {
    const listen = more.includes("--listen") ? [] : ["--listen", "127.0.0.1:0"];
    const words = [MAIN, ...listen, "--file", file, ...more];
    const child = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "pipe"] });
    t.after(() => child.kill("SIGKILL"));
    const said: string[] = [];
    child.stderr.setEncoding("utf8").on("data", (text: string) => said.push(text));
    const lines = createInterface(child.stdout);
    const [line] = (await Promise.race([
      once(lines, "line", { signal: deadline() }),
      once(child, "close").then(() => Promise.reject(new Error(`it has ended: ${said.join("")}`))),
    ])) as [string];
    return new WitnessProcess(child, line.replace("listening at ", ""), said);
  }

  get warnings(): string {
    return this.said.join("");
  }

  /** Resolves with the exit status when it is gone. */
  async end(signal: NodeJS.Signals): Promise<number | null> {
    const gone = once(this.child, "exit", { signal: deadline() });
    this.child.kill(signal);
    return ((await gone) as [number | null])[0];
  }

  /** Resolves when it has ended of itself. */
  async ended(): Promise<number | null> {
    if (this.child.exitCode !== null) return this.child.exitCode;
    return ((await once(this.child, "exit", { signal: deadline() })) as [number | null])[0];
  }
}
