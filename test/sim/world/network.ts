/**
 * The links between the hosts, and doors to knock at. Production code gets it in place of `node:net`
 * (stand-ins/net.ts).
 */
import { EventEmitter } from "node:events";
import type { Checker } from "./checker.ts";
import { type LinkQuality, SimSocket, Way, type Wires } from "./socket.ts";
import type { Surroundings } from "./surroundings.ts";
import { current, type SimProcess } from "./time.ts";

export class SimServer extends EventEmitter {
  readonly process: SimProcess;
  private readonly network: Network;
  private readonly onSocket: (socket: SimSocket) => void;
  private bound: string | undefined;

  constructor(network: Network, onSocket: (socket: SimSocket) => void) {
    super();
    this.network = network;
    this.onSocket = onSocket;
    this.process = current();
    this.process.onDeath(() => this.close());
  }

  get listening(): boolean {
    return this.bound !== undefined;
  }

  listen({ host }: { host: string; port: number }, ready: () => void): this {
    const { acceptors } = this.network;
    const why = this.network.hasAddress(this.process)
      ? acceptors.has(host)
        ? "EADDRINUSE: address already in use"
        : undefined
      : "EADDRNOTAVAIL: address not available";
    if (why !== undefined) {
      this.process.post(0, () => this.emit("error", new Error(`listen ${why} ${host}`)));
      return this;
    }
    this.bound = host;
    acceptors.set(host, this);
    this.process.post(0.1, ready);
    return this;
  }

  address(): { address: string; port: number } | null {
    return this.bound === undefined ? null : { address: this.bound, port: 7000 };
  }

  close(): this {
    if (this.bound !== undefined) this.network.acceptors.delete(this.bound);
    this.bound = undefined;
    return this;
  }

  accept(socket: SimSocket): void {
    this.onSocket(socket);
  }
}

export interface NetworkWorld extends Surroundings {
  readonly checker: Checker;
}

export class Network implements Wires {
  readonly sockets = new Set<SimSocket>();
  /** Ends that are gone while their kernel still sends. */
  readonly closing = new Set<SimSocket>();
  readonly acceptors = new Map<string, SimServer>();
  /** Hosts of whose next bytes one is changed on its way. */
  readonly corrupts = new Set<string>();
  readonly quality: LinkQuality[];
  readonly ways: Way[];
  private readonly world: NetworkWorld;

  constructor(world: NetworkWorld, quality: LinkQuality[]) {
    this.world = world;
    this.quality = quality;
    this.ways = quality.flatMap((_, link) => [new Way("A", "B", link), new Way("B", "A", link)]);
  }

  /** The host of this process has its addresses for replication. */
  hasAddress(process: SimProcess): boolean {
    return !this.world.hostOf(process).addressGone;
  }

  standsDown(host: string): void {
    this.world.checker.foresight.standsDown(host);
  }

  acks(host: string, epoch: number): void {
    this.world.checker.foresight.acks(host, epoch);
  }

  way(from: string, to: string, link: number): Way {
    // Strangers have ways of their own, which nothing happens to.
    return (
      this.ways.find((one) => one.from === from && one.to === to && one.link === link) ??
      new Way(from, to, link)
    );
  }

  setUp(from: string, to: string, link: number, up: boolean): void {
    const way = this.way(from, to, link);
    if (way.up === up) return;
    way.up = up;
    if (!up) way.downSinceMs = this.world.time.now;
    if (up)
      for (const socket of [...this.sockets, ...this.closing]) if (socket.host === from) socket.mended();
  }

  /** An address is a host's name and the number of the link. */
  connect(address: string): SimSocket {
    const process = current();
    const from = this.world.hostOf(process).name;
    const to = address[0]!;
    const link = Number(address[1] ?? 0);
    const out = this.way(from, to, link);
    const back = this.way(to, from, link);
    const socket = new SimSocket(this.world, this, out, process, { own: `${from}${link}`, remote: address });
    const attempt = () => {
      if (socket.destroyed || !process.alive) return;
      const { latencyMs, jitterMs } = this.quality[link]!;
      const there = latencyMs + this.world.random.unit() * jitterMs;
      if (!out.up || !back.up || !this.world.host(to).on) {
        this.world.time.after(1000, attempt);
        return;
      }
      this.world.time.after(there, () => {
        if (socket.destroyed) return;
        const acceptor = this.acceptors.get(address);
        if (acceptor === undefined) {
          process.post(latencyMs, () => {
            if (socket.destroyed) return;
            socket.emit("error", Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" }));
            socket.destroy();
          });
          return;
        }
        const theirs = new SimSocket(this.world, this, back, acceptor.process, {
          own: address,
          remote: `${from}${link}`,
        });
        theirs.peer = socket;
        socket.peer = theirs;
        acceptor.process.post(0, () => acceptor.accept(theirs));
        process.post(latencyMs, () => socket.destroyed || socket.emit("connect"));
      });
    };
    attempt();
    return socket;
  }

  corruptNext(host: string): void {
    this.corrupts.add(host);
  }

  powerFails(host: string): void {
    for (const socket of [...this.sockets, ...this.closing]) if (socket.host === host) socket.vanish();
    for (const address of [...this.acceptors.keys()]) if (address[0] === host) this.acceptors.delete(address);
  }
}
