/**
 * One end of a TCP connection. A connection keeps order and loses nothing; but it may be slow, stall, be
 * full, be reset at one end or both, or have no other end any more. Production code gets it in place of
 * `node:net` (stand-ins/net.ts).
 */
import { EventEmitter } from "node:events";
import { HEADER_BYTES, MAGIC, MESSAGES } from "../../../src/codec/replication.ts";
import type { Heard, Surroundings } from "./surroundings.ts";
import type { SimProcess } from "./time.ts";

export interface LinkQuality {
  latencyMs: number;
  jitterMs: number;
  bytesPerMs: number;
  /** What kernels and boxes on the way hold of one direction of a connection. */
  bufferBytes: number;
}

/** What connections run over. */
export interface Wires {
  /** By the number of the link. */
  readonly quality: readonly LinkQuality[];
  readonly sockets: Set<SimSocket>;
  /** Ends that are gone while their kernel still sends. */
  readonly closing: Set<SimSocket>;
  /** Hosts of whose next bytes one is changed on its way. */
  readonly corrupts: Set<string>;
  way(from: string, to: string, link: number): Way;
  /** A backup says that it holds a checkpoint. */
  acks(host: string, epoch: number): void;
  /** It says that it has let go of the VM. */
  standsDown(host: string): void;
}

/** Bytes that a network hands over together, at most. */
const MOST_AT_ONCE = 16 << 10;

const NAMES = Object.fromEntries(Object.entries(MESSAGES).map(([name, { code }]) => [code, name]));

function isHeader(bytes: Uint8Array): boolean {
  return bytes.length >= HEADER_BYTES && new DataView(bytes.buffer, bytes.byteOffset).getUint32(0) === MAGIC;
}

/** One way over one link. */
export class Way {
  up = true;
  downSinceMs = 0;
  readonly from: string;
  readonly to: string;
  readonly link: number;
  /** Until then nothing more is taken by this way: what was put on it is on the wire. */
  freeAtMs = 0;

  constructor(from: string, to: string, link: number) {
    this.from = from;
    this.to = to;
    this.link = link;
  }
}

interface Segment {
  readonly bytes: Uint8Array | "end";
  readonly size: number;
  readonly sentAtMs: number;
  arrivesAtMs: number;
}

interface Unsent {
  readonly bytes: Uint8Array;
  readonly taken: (() => void) | undefined;
}

export class SimSocket extends EventEmitter {
  readonly process: SimProcess;
  readonly host: string;
  readonly address: string;
  readonly remoteAddress: string;
  readonly remotePort = 7000;
  readonly heard: Heard = { sentAtMs: 0, arrivedAtMs: 0 };
  destroyed = false;
  peer: SimSocket | undefined;
  /** Bytes that this process has written and its kernel has not taken. */
  unsentBytes = 0;
  private readonly world: Surroundings;
  private readonly wires: Wires;
  private readonly way: Way;
  private unsent: Unsent[] = [];
  private segments: Segment[] = [];
  private inKernel = 0;
  private pumping = false;
  private ending = false;
  private ended = false;
  /** Arrived and not read: the process stands still. */
  private unread = 0;

  constructor(
    world: Surroundings,
    wires: Wires,
    way: Way,
    process: SimProcess,
    addresses: { own: string; remote: string },
  ) {
    super();
    this.world = world;
    this.wires = wires;
    this.way = way;
    this.process = process;
    this.host = way.from;
    this.address = addresses.own;
    this.remoteAddress = addresses.remote;
    wires.sockets.add(this);
    process.onDeath(() => this.drop());
  }

  setNoDelay(): void {}
  cork(): void {}
  uncork(): void {}
  pause(): void {}
  resume(): void {}

  write(bytes: Uint8Array, taken?: (error?: Error) => void): boolean {
    if (this.destroyed || !this.process.alive) return false;
    const copy = Uint8Array.from(bytes);
    const { wires } = this;
    if (wires.corrupts.delete(this.host))
      copy[this.world.random.below(copy.length)]! ^= 1 << this.world.random.below(8);
    // What is large arrives bit by bit, and each bit is heard.
    for (let from = 0; from < copy.length; from += MOST_AT_ONCE) {
      const isLast = from + MOST_AT_ONCE >= copy.length;
      const part = copy.subarray(from, from + MOST_AT_ONCE);
      this.unsent.push({ bytes: part, taken: isLast ? taken : undefined });
    }
    if (isHeader(bytes))
      this.says(NAMES[bytes[5]!]!, new DataView(bytes.buffer, bytes.byteOffset).getUint32(36));
    this.unsentBytes += bytes.length;
    this.push();
    return true;
  }

  /** Closes for sending, behind what was written. */
  end(): void {
    this.ending = true;
    this.push();
  }

  destroy(): void {
    this.drop();
  }

  /** Power failure: nobody says anything. */
  vanish(): void {
    this.destroyed = true;
    this.unsent = [];
    this.segments = [];
    this.wires.sockets.delete(this);
  }

  /** A reset comes in, from the peer or from a box on the way. */
  reset(): void {
    if (this.destroyed) return;
    this.process.post(0, () => {
      if (this.destroyed) return;
      this.gone();
      this.emit("error", Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" }));
      this.emit("close");
    });
  }

  /** What waits, bytes and all: for I6. */
  get queued(): number {
    return this.unsent.length;
  }

  private says(name: string, epoch: number): void {
    if (name === "ack") this.wires.acks(this.host, epoch);
    if (name === "goodbye-ok") this.wires.standsDown(this.host);
    this.world.step(this.host, `sends ${name}`);
  }

  private drop(): void {
    if (this.destroyed) return;
    const { peer, unread } = this;
    // What the kernel has taken is still sent, and then the end; unless something was left unread, which
    // makes it a reset.
    this.unsent = [];
    this.unsentBytes = 0;
    this.destroyed = true;
    this.wires.sockets.delete(this);
    this.wires.closing.add(this);
    if (unread > 0) this.arrivesLater(() => peer?.reset());
    else if (!this.ended) {
      this.ended = true;
      this.put("end", 0);
    }
    if (this.process.alive) this.process.post(0, () => this.emit("close"));
  }

  private gone(): void {
    this.destroyed = true;
    this.unsent = [];
    this.unsentBytes = 0;
    this.segments = [];
    this.wires.sockets.delete(this);
  }

  private push(): void {
    const { bufferBytes } = this.wires.quality[this.way.link]!;
    while (this.unsent.length > 0 && this.inKernel < bufferBytes) {
      const { bytes, taken } = this.unsent.shift()!;
      this.unsentBytes -= bytes.length;
      this.put(bytes, bytes.length);
      if (taken === undefined) continue;
      // Within the event in which it was written, or in one of its own.
      if (this.world.isRunning(this.process)) queueMicrotask(taken);
      else this.process.post(0, () => this.destroyed || taken());
    }
    if (this.ending && !this.ended && this.unsent.length === 0) {
      this.ended = true;
      this.put("end", 0);
    }
  }

  private put(bytes: Uint8Array | "end", size: number): void {
    const { time } = this.world;
    const { jitterMs, latencyMs, bytesPerMs } = this.wires.quality[this.way.link]!;
    const leaves = Math.max(time.now, this.way.freeAtMs) + size / bytesPerMs;
    this.way.freeAtMs = leaves;
    const before = this.segments.at(-1)?.arrivesAtMs ?? 0;
    const arrivesAtMs = Math.max(before, leaves + latencyMs + this.world.random.unit() * jitterMs);
    this.inKernel += size;
    this.segments.push({ bytes, size, sentAtMs: time.now, arrivesAtMs });
    this.pump();
  }

  /** Carries what has been taken by the kernel, in order. While the way is down it waits. */
  private pump(): void {
    const first = this.segments[0];
    if (this.pumping || first === undefined || !this.way.up) return;
    this.pumping = true;
    this.world.time.at(first.arrivesAtMs, () => {
      this.pumping = false;
      if (!this.way.up || this.segments[0] !== first) {
        this.pump();
        return;
      }
      const { now } = this.world.time;
      while (this.segments.length > 0 && this.segments[0]!.arrivesAtMs <= now)
        this.arrive(this.segments.shift()!);
      if (!this.destroyed) this.push();
      else if (this.segments.length === 0) this.wires.closing.delete(this);
      this.pump();
    });
  }

  /**
   * The way is up again: TCP sends again what was lost, a while later, which is the longer the longer it was
   * down.
   */
  mended(): void {
    if (this.segments.length === 0) return;
    const { now } = this.world.time;
    const again = now + this.world.random.between(1, Math.min(200, 10 + now - this.way.downSinceMs));
    for (const one of this.segments) one.arrivesAtMs = Math.max(one.arrivesAtMs, again);
    this.pump();
  }

  private arrive({ bytes, sentAtMs, size }: Segment): void {
    this.inKernel -= size;
    const { peer, world } = this;
    if (peer === undefined || peer.destroyed || !peer.process.alive) {
      // Nobody there: a host that is up says so; what was to be heard of it is not.
      if (bytes !== "end" && peer !== undefined && world.isOn(peer.host))
        this.arrivesLater(() => this.reset());
      return;
    }
    peer.unread++;
    const arrivedAtMs = world.time.now;
    peer.process.post(0, () => {
      peer.unread--;
      if (peer.destroyed) return;
      if (bytes === "end") {
        peer.emit("end");
        if (!peer.destroyed) peer.emit("close");
        peer.drop();
        return;
      }
      peer.heard.sentAtMs = sentAtMs;
      peer.heard.arrivedAtMs = arrivedAtMs;
      world.hears(peer.host, peer.heard);
      peer.emit("data", bytes);
    });
  }

  /** Something without contents comes back to this end, if the way back is up. */
  private arrivesLater(act: () => void): void {
    const { latencyMs } = this.wires.quality[this.way.link]!;
    const back = this.wires.way(this.way.to, this.way.from, this.way.link);
    this.world.time.after(latencyMs, () => back.up && this.way.up && act());
  }
}
