/** A fault proxy in a namespace of the lab, steered by lines (fault-proxy.ts). */
import type { ChildProcess } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Children } from "./children.ts";

const proxyFile = join(import.meta.dirname, "fault-proxy.ts");

export class ProxyProcess {
  private readonly child: ChildProcess;
  private readonly answers: PromiseWithResolvers<string>[] = [];

  private constructor(child: ChildProcess) {
    this.child = child;
    createInterface({ input: child.stdout! }).on("line", (line) => this.answers.shift()?.resolve(line));
    child.once("exit", () => {
      for (const { reject } of this.answers) reject(new Error("the proxy has ended"));
    });
  }

  /**
   * Starts a proxy behind `prefix` that listens on `from` and leads to `to` (ADDRESS:PORT). Resolves when it
   * listens.
   */
  static async start(
    children: Children,
    prefix: readonly string[],
    from: string,
    to: string,
  ): Promise<ProxyProcess> {
    const words = [...prefix, process.execPath, proxyFile, "--listen", from, "--to", to];
    const proxy = new ProxyProcess(children.spawn(words, ["pipe", "pipe", "inherit"]));
    await proxy.answer();
    return proxy;
  }

  /** Gives a command; resolves when it is carried out. */
  async tell(command: string): Promise<void> {
    const answer = this.answer();
    this.child.stdin!.write(`${command}\n`);
    const said = await answer;
    if (said !== "ok") throw new Error(`proxy: ${said}`);
  }

  private answer(): Promise<string> {
    const answer = Promise.withResolvers<string>();
    this.answers.push(answer);
    return answer.promise;
  }
}
