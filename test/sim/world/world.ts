/**
 * The made-up world: two hosts, their links, a witness, an operator, and whatever goes wrong. Everything in
 * it follows from the seed.
 */

import type { Claim } from "../../../src/core/arbiter.ts";
import { Checker, type Court } from "./checker.ts";
import type { Snapshot } from "./guest.ts";
import { Host, type HostWorld } from "./host.ts";
import { Network } from "./network.ts";
import type { QemuWorld } from "./qemu.ts";
import type { Random } from "./random.ts";
import type { LinkQuality } from "./socket.ts";
import type { Heard } from "./surroundings.ts";
import { currentOrNone, type SimProcess, Time } from "./time.ts";
import { type Context as Datagrams, SimWitness } from "./witness.ts";

/** A guardian's life, until its exit status. */
export type Life = (world: World, host: Host) => Promise<number>;

/** What one world is like. */
export interface Nature {
  readonly links: LinkQuality[];
  readonly witnessMembers: number;
  readonly datagrams: Datagrams;
  readonly guestStepMs: number;
  readonly clientMs: number;
  readonly hasDisk: boolean;
  readonly durability: "strict" | "replicated";
  readonly diskShare: number;
  /** Steps of the guest's between two flushes, on average; 0: it never flushes. */
  readonly flushEvery: number;
  /** Write-intent logs give way to new ones now and then. */
  readonly logsGrow: boolean;
  /** What reaches stable storage takes so long, at most. */
  readonly syncMs: number;
  /** The same of disk images. */
  readonly flushMs: number;
  /** The thread that holds output takes an order so late, at most. */
  readonly holdMs: number;
  /** When the guardians of A and B are started for the first time. */
  readonly startsMs: readonly [number, number];
  readonly diskMs: number;
  readonly firstPassMs: number;
  readonly intervalMs: number;
  readonly maxInFlight: number;
  /** Of checkpoints that are not acknowledged; with more no further one is begun. */
  readonly stagingMiB: number;
  readonly detectionMs: number;
  readonly retryMs: number;
  readonly hungMs: number;
  readonly protectAtStart: boolean;
  /** Both files say that their host is the primary. */
  readonly bothPrimary: boolean;
}

/** Something that was waited for: a step of somebody's. */
interface Trap {
  readonly step: string;
  /** Whose; undefined: anybody's. */
  readonly host: string | undefined;
  left: number;
  readonly act: (host: string) => void;
}

export class World implements Court, HostWorld, QemuWorld {
  readonly time = new Time();
  readonly random: Random;
  readonly nature: Nature;
  readonly network: Network;
  readonly witness: SimWitness;
  readonly checker: Checker;
  readonly hosts: ReadonlyMap<string, Host>;
  readonly processes = new Map<SimProcess, Host>();
  readonly seen = new Map<string, number>();
  readonly transcript: string[] = [];
  /** The first one: the invariant, and what happened. */
  violation: string | undefined;
  /** This run has one failure, and no more. */
  onlyOneFailure = false;
  /** The run is over: nothing that happens now is judged. */
  ending = false;
  /** Somebody looks at the VM, which is paused for it. */
  heldUntilMs = 0;
  /** A host has answered "done" to stop, and nobody has asked for protection since. */
  stopped: Court["stopped"];
  /** What was said to the last order that was refused, or failed. */
  refused = "";
  /** Orders that wish for protection, or for none: the last one counts. */
  wishes = 0;
  /** Bad times last so long at least: something has been prepared. */
  notBefore = 0;
  /** Bad times are over. */
  calm = false;
  /** Of a scenario: strikes whose time has not come. */
  readonly waiting: { readonly line: string; readonly isOver: () => boolean }[] = [];
  /** What undoes the faults that last. */
  readonly healing: (() => void)[] = [];
  private readonly phases = new Map<string, string>();
  private traps: Trap[] = [];
  private readonly snapshots = new Map<number, Snapshot>();
  private number = 0;
  private readonly keepTranscript: number;

  private readonly life: Life;

  /** @param keepTranscript lines; what is older goes */
  constructor(random: Random, nature: Nature, life: Life, keepTranscript: number) {
    this.random = random;
    this.life = life;
    this.keepTranscript = keepTranscript;
    this.nature = nature;
    this.network = new Network(
      this,
      nature.links.map((link) => ({ ...link })),
    );
    this.witness = new SimWitness(this, nature.witnessMembers, { ...nature.datagrams });
    this.checker = new Checker(this);
    this.hosts = new Map(["A", "B"].map((name) => [name, new Host(this, name)]));
  }

  get mostOnTheWayBytes(): number {
    return this.nature.stagingMiB * 2 ** 20;
  }

  get diskMs(): number {
    return this.nature.diskMs;
  }
  get firstPassMs(): number {
    return this.nature.firstPassMs * this.random.between(0.7, 1.3);
  }

  get claimed(): Claim | undefined {
    return this.witness.newest;
  }

  begin(host: Host): Promise<number> {
    return this.life(this, host);
  }

  host(name: string): Host {
    return this.hosts.get(name)!;
  }

  isOn(host: string): boolean {
    return this.hosts.get(host)?.on ?? true;
  }

  /** The other one. */
  other(name: string): Host {
    return this.host(name === "A" ? "B" : "A");
  }

  /** What its guardian has told last: "primary protected", say. */
  phaseOf(host: string): string {
    return this.phases.get(host) ?? "";
  }

  hostOf(process: SimProcess): Host {
    return this.processes.get(process)!;
  }

  isRunning(process: SimProcess): boolean {
    return currentOrNone() === process;
  }

  nextNumber(): number {
    return ++this.number;
  }

  // What the stand-ins say

  keepSnapshot(snapshot: Snapshot): Uint8Array {
    const number = this.nextNumber();
    this.snapshots.set(number, snapshot);
    if (this.snapshots.size > 400) this.snapshots.delete(this.snapshots.keys().next().value!);
    const device = new Uint8Array(4);
    new DataView(device.buffer).setUint32(0, number);
    return device;
  }

  snapshotOf(device: Uint8Array): Snapshot {
    const number = new DataView(device.buffer, device.byteOffset).getUint32(0);
    const snapshot = this.snapshots.get(number);
    if (snapshot === undefined) throw new Error(`simulator: no snapshot ${number} is kept`);
    return snapshot;
  }

  hears(host: string, { arrivedAtMs, sentAtMs }: Heard): void {
    const heard = { arrivedAtMs, sentAtMs };
    if (this.hosts.has(host)) this.host(host).heard = heard;
  }

  phase(host: string, role: string, phase: string): void {
    this.note(host, `${role}: ${phase}`);
    const now = `${role} ${phase}`;
    this.count(`${this.phases.get(host) ?? "begins as"} → ${now}`);
    this.phases.set(host, now);
    this.step(host, `${role}:${phase}`);
  }

  /** Something has come to a point at which a fault may wait. */
  step(host: string, step: string): void {
    if (this.traps.length === 0) return;
    for (const trap of [...this.traps])
      if (trap.step === step && (trap.host ?? host) === host && trap.left-- === 0) {
        this.traps = this.traps.filter((one) => one !== trap);
        trap.act(host);
      }
  }

  /** Calls `act` when somebody comes to this step for the so-manieth time, from 0. */
  at(step: string, after: number, act: (host: string) => void, host?: string): void {
    this.traps.push({ step, host, left: after, act });
  }

  forget(): void {
    this.traps = [];
  }

  note(who: string, text: string): void {
    const at = this.time.now.toFixed(2).padStart(10);
    this.transcript.push(`${at} ${who.padEnd(8)} ${text}`);
    if (this.transcript.length > 2 * this.keepTranscript) this.transcript.splice(0, this.keepTranscript);
  }

  count(what: string): void {
    this.seen.set(what, (this.seen.get(what) ?? 0) + 1);
  }

  violated(invariant: string, text: string): void {
    if (this.ending) return;
    const violation = `${invariant}: ${text}`;
    this.note("JUDGE", violation);
    this.violation ??= violation;
  }

  /** Production code has failed in a way that it calls impossible. */
  bug(host: string, error: unknown): void {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.violated("bug", `${host}: ${text}`);
  }
}
