/**
 * The processes of a lab. They stand in sessions of their own, so that Ctrl-C reaches the lab alone, which
 * then ends them; and they die with the process that started them, should it be killed.
 */
import { type ChildProcess, type StdioOptions, spawn } from "node:child_process";
import { join } from "node:path";
import { cacheDirectory } from "./configuration.ts";

/**
 * A guardian and its threads compile all that they load, each anew: with this they take half as long to be
 * there.
 */
const compileCache = join(cacheDirectory, "compile");

export class Children {
  private readonly running = new Map<ChildProcess, Promise<void>>();
  private over = false;

  /** @throws once the lab is being taken down: nothing may be started any more */
  spawn(words: readonly string[], stdio: StdioOptions): ChildProcess {
    if (this.over) throw new Error("the lab is being taken down");
    const options = { stdio, detached: true, env: { NODE_COMPILE_CACHE: compileCache, ...process.env } };
    const child = spawn("setpriv", ["--pdeathsig", "KILL", "--", ...words], options);
    const gone = new Promise<void>((resolve) => {
      child.once("exit", () => resolve());
      child.once("error", () => resolve());
    });
    this.running.set(child, gone);
    void gone.then(() => this.running.delete(child));
    return child;
  }

  /** SIGKILL to all; resolves when they are gone. */
  async end(): Promise<void> {
    this.over = true;
    for (const child of this.running.keys()) child.kill("SIGKILL");
    await Promise.all(this.running.values());
  }
}
