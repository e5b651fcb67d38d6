// A real etcd of several members on the loopback, each a process of its own that can be killed and started
// again with what it had.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { postJson, type TlsFiles } from "../../src/witness/post-json.ts";

/** Unpacked there by setup/setup.sh. */
const PROGRAM = new URL("../../.cache/etcd/usr/bin/etcd", import.meta.url).pathname;
const GRACE_MS = 20_000;
/** Short: a member that is killed is to be missed soon. */
const HEARTBEAT_MS = 50;
const ELECTION_MS = 400;

export interface EtcdTls {
  /** Of the servers and of those who connect to them: without a certificate nobody is let in. */
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
}

interface Member {
  readonly name: string;
  readonly client: string;
  readonly peer: string;
  process: ChildProcess | undefined;
}

export class EtcdCluster {
  private readonly folder: string;
  private readonly members: readonly Member[];
  private readonly tls: EtcdTls | undefined;
  private readonly words: readonly string[];

  private constructor(
    folder: string,
    members: readonly Member[],
    tls: EtcdTls | undefined,
    words: readonly string[],
  ) {
    this.words = words;
    this.folder = folder;
    this.members = members;
    this.tls = tls;
  }

  /** Resolves when every member answers. @param words more of each member's command line */
  static async start(
    folder: string,
    size: number,
    tls?: EtcdTls,
    words: readonly string[] = [],
  ): Promise<EtcdCluster> {
    const ports = await freePorts(2 * size);
    const scheme = tls === undefined ? "http" : "https";
    const members = Array.from({ length: size }, (_, n) => ({
      name: `m${n}`,
      client: `${scheme}://127.0.0.1:${ports[2 * n]}`,
      peer: `http://127.0.0.1:${ports[2 * n + 1]}`,
      process: undefined,
    }));
    const cluster = new EtcdCluster(folder, members, tls, words);
    try {
      await Promise.all(members.map((_, n) => cluster.startMember(n)));
    } catch (error) {
      await cluster.end();
      throw error;
    }
    return cluster;
  }

  get endpoints(): string[] {
    return this.members.map(({ client }) => client);
  }

  /** The member, new or killed before, is there again and answers. */
  async startMember(n: number): Promise<void> {
    this.launch(this.members[n]!);
    await this.answers(n);
  }

  /** SIGKILL. */
  async kill(n: number): Promise<void> {
    const { process } = this.members[n]!;
    if (process === undefined || process.exitCode !== null || process.signalCode !== null) return;
    const gone = once(process, "exit");
    process.kill("SIGKILL");
    await gone;
  }

  /** Not answering, and not dead: SIGSTOP or SIGCONT. */
  signal(n: number, signal: "SIGSTOP" | "SIGCONT"): void {
    this.members[n]!.process!.kill(signal);
  }

  async end(): Promise<void> {
    await Promise.all(this.members.map((_, n) => this.kill(n)));
  }

  /** An order over the gateway of a member, as an administrator gives it. */
  async order(path: string, body: unknown, authorization?: string, n = 0): Promise<Record<string, unknown>> {
    const answer = await postJson({
      url: new URL(path, this.members[n]!.client),
      body,
      tls: this.tls ?? ({} satisfies TlsFiles),
      timeoutMs: 5_000,
      signal: AbortSignal.timeout(GRACE_MS),
      ...(authorization === undefined ? {} : { authorization }),
    });
    if (answer.status !== 200) throw new Error(`etcd: ${path}: ${JSON.stringify(answer.body)}`);
    return answer.body;
  }

  private launch(member: Member): void {
    const { client, name, peer } = member;
    const words = [
      ...["--name", name, "--data-dir", join(this.folder, name), "--log-level", "error"],
      ...["--listen-client-urls", client, "--advertise-client-urls", client],
      ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
      ...["--initial-cluster", this.members.map((one) => `${one.name}=${one.peer}`).join(",")],
      ...this.words,
      ...["--heartbeat-interval", `${HEARTBEAT_MS}`, "--election-timeout", `${ELECTION_MS}`],
    ];
    const { tls } = this;
    if (tls !== undefined)
      words.push(
        ...["--client-cert-auth", "--trusted-ca-file", tls.caFile],
        ...["--cert-file", tls.certFile, "--key-file", tls.keyFile],
      );
    member.process = spawn(PROGRAM, words, { stdio: "ignore" });
  }

  /**
   * A read that the whole cluster has to agree to. With authentication on it is refused, and that is an
   * answer, too.
   */
  private async answers(n: number): Promise<void> {
    const deadline = performance.now() + GRACE_MS;
    for (;;) {
      try {
        const { process } = this.members[n]!;
        if (process?.exitCode !== null)
          throw new Error(`etcd member ${n} has ended with ${process?.exitCode}`);
        await this.order("/v3/kv/range", { key: "AA==" }, undefined, n);
        return;
      } catch (error) {
        if (/user name is empty|permission denied|CommonName of client/.test((error as Error).message))
          return;
        if (performance.now() > deadline) throw error;
        await pause(20);
      }
    }
  }
}

/** Free on the loopback now. */
async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer().listen(0, "127.0.0.1");
      await once(server, "listening");
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => once(server.close(), "close")));
  return ports;
}
