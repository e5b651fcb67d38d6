/**
 * Claims in etcd, version 3.4 or later, over the JSON gateway that every member has on its client port
 * (docs/specs/witness.md). Each claim is a key that is written once: `<prefix><vm>/<generation>`, with the
 * host's name in it.
 */
import { readFile } from "node:fs/promises";
import type { Claim } from "../core/arbiter.ts";
import type { Generation } from "../core/words.ts";
import { type Answer, postJson, type TlsFiles } from "./post-json.ts";
import { asClaim, generationOf, generationText, type Register } from "./register.ts";
import { firstAnswer } from "./staggered.ts";

export interface EtcdOptions extends TlsFiles {
  /** Client URLs of members of one cluster, such as `https://10.0.0.1:2379`. */
  readonly endpoints: readonly string[];
  /**
   * Both or neither. The gateway knows no users by their certificates: with roles in etcd, a password is
   * needed.
   */
  readonly user?: string;
  readonly passwordFile?: string;
  /** Before every key. Default `remus/`. */
  readonly prefix?: string;
}

/** A member that cannot reach the others lets us wait: then the next is asked. */
const TRY_MS = 2000;
const GRACE_MS = 150;
/**
 * What etcd 3.4 says when authentication is on and a certificate names somebody: its gateway takes nobody's
 * word for that.
 */
const NAMED_CERTIFICATE = "CommonName of client sending a request against gateway";
const UNNAME_IT =
  "Give this host a client certificate without a CommonName (certFile), and etcd a user and password";

const NO_SPACE = "database space exceeded";
const MAKE_ROOM =
  "It can be read, and takes no claims. Make room in it (etcdctl compact, etcdctl defrag), and then: etcdctl alarm disarm";

export class EtcdRegister implements Register {
  readonly name: string;
  private readonly options: EtcdOptions;
  private readonly prefix: string;
  private readonly endpoints: readonly URL[];
  /** The endpoint that answered last: it is asked first. */
  private first = 0;
  /** By endpoint: a member that was restarted knows no tokens. */
  private readonly tokens = new Map<URL, string>();

  constructor(options: EtcdOptions) {
    this.name = `etcd at ${options.endpoints.join(", ")}`;
    this.options = options;
    this.prefix = options.prefix ?? "remus/";
    this.endpoints = options.endpoints.map((text) => new URL(text));
    if (this.endpoints.length === 0) throw new TypeError("etcd needs at least one endpoint");
  }

  async claim(vmId: string, claim: Claim, signal: AbortSignal): Promise<Claim> {
    const key = this.key(vmId, claim.generation);
    const { succeeded, responses } = await this.call("/v3/kv/txn", signal, {
      // Over a range, this compares with every key in it; it holds when there is none.
      compare: [{ key, range_end: this.end(vmId), target: "CREATE", result: "EQUAL", create_revision: "0" }],
      success: [{ request_put: { key, value: base64(textOf(claim)) } }],
      failure: [{ request_range: this.newestKey(vmId) }],
    });
    if (succeeded === true) return claim;
    const [response] = (responses ?? []) as readonly { response_range?: unknown }[];
    const newest = this.claimIn(vmId, response?.response_range ?? {});
    if (newest === undefined) throw new Error(`${this.name} has refused a claim and names no other`);
    return newest;
  }

  async newest(vmId: string, signal: AbortSignal): Promise<Claim | undefined> {
    // Not `serializable`: a member that has been cut off must not answer from what it remembers.
    return this.claimIn(vmId, await this.call("/v3/kv/range", signal, this.newestKey(vmId)));
  }

  /**
   * A transaction that would put something, and whose condition never holds. It goes through the log of the
   * cluster, and etcd judges it by what it could put: with the alarm NOSPACE, or without the right to write,
   * it is refused. So nothing is stored, and there is nothing to compact.
   */
  async check(vmId: string, signal: AbortSignal): Promise<void> {
    const key = base64(`${this.prefix}${vmId}/check`);
    const { succeeded } = await this.call("/v3/kv/txn", signal, {
      compare: [{ key, target: "VERSION", result: "LESS", version: "0" }],
      success: [{ request_put: { key, value: base64("check") } }],
    });
    if (succeeded === true) throw new Error(`${this.name} has carried out what it must not`);
  }

  close(): void {}

  private async call(path: string, signal: AbortSignal, body: unknown): Promise<Answer["body"]> {
    const order = this.endpoints.map((_, i) => (this.first + i) % this.endpoints.length);
    const tries = order.map((index) => async (until: AbortSignal) => {
      const answer = await this.callAt(this.endpoints[index]!, path, body, until);
      this.first = index;
      return answer;
    });
    return await firstAnswer(tries, GRACE_MS, signal);
  }

  private async callAt(endpoint: URL, path: string, body: unknown, signal: AbortSignal) {
    const known = this.tokens.get(endpoint);
    let answer = await this.post(endpoint, path, body, signal, known ?? (await this.logIn(endpoint, signal)));
    if (answer.status !== 200 && known !== undefined)
      answer = await this.post(endpoint, path, body, signal, await this.logIn(endpoint, signal));
    // Every answer of etcd has a header. Without it, an empty object from something else would mean that
    // there are no claims.
    if (answer.status === 200 && answer.body.header !== undefined) return answer.body;
    this.tokens.delete(endpoint);
    throw refusal(endpoint, answer);
  }

  /**
   * A new token, if there is a user. Whatever a known token was refused for, it costs little to try a new
   * one.
   */
  private async logIn(endpoint: URL, signal: AbortSignal): Promise<string | undefined> {
    const { user, passwordFile } = this.options;
    if (user === undefined || passwordFile === undefined) return undefined;
    const password = (await readFile(passwordFile, "utf8")).trimEnd();
    const answer = await this.post(endpoint, "/v3/auth/authenticate", { name: user, password }, signal);
    const { token } = answer.body;
    if (answer.status !== 200 || typeof token !== "string") throw refusal(endpoint, answer);
    this.tokens.set(endpoint, token);
    return token;
  }

  private post(
    endpoint: URL,
    path: string,
    body: unknown,
    signal: AbortSignal,
    authorization?: string,
  ): Promise<Answer> {
    return postJson({
      url: new URL(path, endpoint),
      body,
      tls: this.options,
      timeoutMs: TRY_MS,
      signal,
      ...(authorization === undefined ? {} : { authorization }),
    }).catch((error: Error) => {
      if (!error.message.includes(NAMED_CERTIFICATE)) throw error;
      throw new Error(`${error.message}. ${UNNAME_IT}`, { cause: error });
    });
  }

  private newestKey(vmId: string) {
    return {
      key: base64(`${this.prefix}${vmId}/`),
      range_end: this.end(vmId),
      limit: "1",
      sort_order: "DESCEND",
      sort_target: "KEY",
    };
  }

  private key(vmId: string, generation: Generation): string {
    return base64(`${this.prefix}${vmId}/${generationText(generation)}`);
  }

  /** The first key behind all of the VM's: `0` follows `/`. */
  private end(vmId: string): string {
    return base64(`${this.prefix}${vmId}0`);
  }

  /** The newest claim in the answer to a range request; empty fields are left out of it. */
  private claimIn(vmId: string, range: unknown): Claim | undefined {
    const { kvs } = range as { kvs?: readonly { key: string; value?: string }[] };
    const entry = kvs?.[0];
    if (entry === undefined) return undefined;
    const key = text(entry.key);
    const generation = generationOf(key.slice(this.prefix.length + vmId.length + 1));
    const [host, at] = text(entry.value ?? "").split(" ");
    return asClaim({ generation, host, at }, `etcd's key ${key}`);
  }
}

/** The host's name, which has no blanks, and when it asked. */
function textOf({ at, host }: Claim): string {
  return at === undefined ? host : `${host} ${at}`;
}

function refusal(endpoint: URL, { status, body }: Answer): Error {
  const why = String(body.message ?? body.error ?? JSON.stringify(body));
  const todo = why.includes(NO_SPACE) ? `. ${MAKE_ROOM}` : "";
  return new Error(`${endpoint.origin}: etcd's answer has status ${status}: ${why}${todo}`);
}

function base64(value: string): string {
  return Buffer.from(value, "utf8").toString("base64");
}

function text(value: string): string {
  return Buffer.from(value, "base64").toString("utf8");
}
