/**
 * The lab's witness: its server on a host of its own, which both hosts reach over a link that has nothing to
 * do with theirs.
 */
import type { ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Children } from "./children.ts";
import { type LabNetwork, labAddresses } from "./namespaces.ts";

const mainFile = join(import.meta.dirname, "../witness/main.ts");
const PORT = 7331;

export class WitnessProcess {
  /** What the hosts' configuration files say of it. */
  readonly config: Readonly<Record<string, unknown>>;
  private readonly child: ChildProcess;
  private readonly gone: Promise<void>;

  private constructor(child: ChildProcess, tokenFile: string) {
    this.config = { kind: "server", url: `http://${labAddresses.witness.witness}:${PORT}`, tokenFile };
    this.child = child;
    this.gone = new Promise((resolve) => child.once("exit", () => resolve()));
  }

  /**
   * Resolves when it listens. What it knows is in `directory`; one that is started there again knows what the
   * one before it did.
   */
  static async start(
    children: Children,
    network: LabNetwork,
    directory: string,
    before?: WitnessProcess,
  ): Promise<WitnessProcess> {
    await mkdir(directory, { recursive: true });
    const tokenFile = join(directory, "token");
    if (before === undefined) await writeFile(tokenFile, randomBytes(32).toString("hex"), { mode: 0o600 });
    const words = [...network.exec("witness"), process.execPath, mainFile, "--token-file", tokenFile];
    words.push("--listen", `${labAddresses.witness.witness}:${PORT}`, "--file", join(directory, "claims"));
    if (before === undefined) words.push("--create");
    const child = children.spawn(words, ["ignore", "pipe", "inherit"]);
    const witness = new WitnessProcess(child, tokenFile);
    await new Promise<void>((resolve, reject) => {
      createInterface({ input: child.stdout! }).once("line", () => resolve());
      child.once("error", reject);
      child.once("exit", (status) => reject(new Error(`the lab's witness ended with status ${status}`)));
    });
    return witness;
  }

  /** SIGSTOP: it takes connections, and answers nobody. */
  hang(): void {
    this.child.kill("SIGSTOP");
  }

  goOn(): void {
    this.child.kill("SIGCONT");
  }

  /** SIGKILL. Resolves when it is gone. */
  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.gone;
  }
}
