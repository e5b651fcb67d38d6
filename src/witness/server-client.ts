/** Claims at a witness of ours (server.ts). */
import { readFile } from "node:fs/promises";
import type { Claim } from "../core/arbiter.ts";
import { postJson, type TlsFiles } from "./post-json.ts";
import { asClaim, type Register } from "./register.ts";

export interface ServerClientOptions extends TlsFiles {
  /** Such as `https://10.0.0.3:7331`. */
  readonly url: string;
  readonly tokenFile?: string;
}

const TRY_MS = 2000;

class Unknown extends Error {}

export class ServerRegister implements Register {
  readonly name: string;
  private readonly options: ServerClientOptions;

  constructor(options: ServerClientOptions) {
    this.name = `the witness at ${new URL(options.url).origin}`;
    this.options = options;
  }

  async claim(vmId: string, claim: Claim, signal: AbortSignal): Promise<Claim> {
    return asClaim(await this.post("/v1/claim", { vm: vmId, ...claim }, signal), this.name);
  }

  async newest(vmId: string, signal: AbortSignal): Promise<Claim | undefined> {
    const newest = await this.post("/v1/newest", { vm: vmId }, signal);
    return newest === null ? undefined : asClaim(newest, this.name);
  }

  async check(vmId: string, signal: AbortSignal): Promise<void> {
    try {
      await this.post("/v1/check", { vm: vmId }, signal);
    } catch (error) {
      // A witness of before knows no such question.
      if (!(error instanceof Unknown)) throw error;
    }
  }

  close(): void {}

  private async post(path: string, body: unknown, signal: AbortSignal): Promise<unknown> {
    const { url, tokenFile } = this.options;
    const token = tokenFile === undefined ? undefined : (await readFile(tokenFile, "utf8")).trim();
    const { status, body: answer } = await postJson({
      url: new URL(path, url),
      body,
      tls: this.options,
      timeoutMs: TRY_MS,
      signal,
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    });
    if (status === 404) throw new Unknown(`${url}: ${String(answer.error)}`);
    if (status !== 200) throw new Error(`${url}: refused with status ${status}: ${String(answer.error)}`);
    if (answer.newest === undefined)
      throw new Error(`${url}: the answer is none of a witness; is it the right port?`);
    return answer.newest;
  }
}
