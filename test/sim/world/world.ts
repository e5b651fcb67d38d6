/** The made-up world: two hosts, their links, a witness, an operator, and whatever goes wrong. Everything in it follows from the seed. */
import type { GuardianConfig } from "../../../src/guardian/config.ts";
import type { ControlSocket } from "../../../src/guardian/control.ts";
import { serve } from "../../../src/guardian/serve.ts";
import { WitnessWatch } from "../../../src/guardian/witness-watch.ts";
import { StateFile } from "../../../src/disk/state-file.ts";
import { ControlSocket as SimControl } from "../stand-ins/control.ts";
import { Stalls } from "../stand-ins/stalls.ts";
import { Checker, type Violation } from "./checker.ts";
import type { Snapshot } from "./guest.ts";
import { Host, type Post } from "./host.ts";
import { type Heard, type LinkQuality, Network } from "./network.ts";
import { Random } from "./random.ts";
import { currentOrNone, type SimProcess, Time } from "./time.ts";
import { type Post as Datagrams, SimWitness } from "./witness.ts";

export const VM = "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10";

/** What one world is like. */
export interface Nature {
  readonly links: LinkQuality[];
  readonly witnessMembers: number;
  readonly datagrams: Datagrams;
  readonly guestStepMs: number;
  readonly clientMs: number;
  readonly diskShare: number;
  readonly diskMs: number;
  readonly firstPassMs: number;
  readonly intervalMs: number;
  readonly maxInFlight: number;
  readonly detectionMs: number;
  readonly retryMs: number;
  readonly protectAtStart: boolean;
}

/** Something that was waited for: a step of somebody's. */
interface Trap {
  readonly step: string;
  left: number;
  readonly act: (host: string) => void;
}

export class World {
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
  violation: Violation | undefined;
  /** This run has one failure, and no more. */
  onlyOneFailure = false;
  /** The run is over: nothing that happens now is judged. */
  ending = false;
  /** Somebody looks at the VM, which is paused for it. */
  heldUntilMs = 0;
  /** Bad times are over. */
  calm = false;
  /** What undoes the faults that last. */
  readonly healing: (() => void)[] = [];
  private traps: Trap[] = [];
  private readonly snapshots = new Map<number, Snapshot>();
  private number = 0;
  private readonly keepTranscript: number;

  /** @param keepTranscript lines; what is older goes */
  constructor(random: Random, nature: Nature, keepTranscript: number) {
    this.random = random;
    this.nature = nature;
    this.keepTranscript = keepTranscript;
    this.network = new Network(this, nature.links);
    this.witness = new SimWitness(this, nature.witnessMembers, nature.datagrams);
    this.checker = new Checker(this);
    this.hosts = new Map(["A", "B"].map((name) => [name, new Host(this, name)]));
  }

  get guestStepMs(): number {
    return this.nature.guestStepMs;
  }
  get diskShare(): number {
    return this.nature.diskShare;
  }
  get diskMs(): number {
    return this.nature.diskMs;
  }
  get firstPassMs(): number {
    return this.nature.firstPassMs * this.random.between(0.7, 1.3);
  }

  host(name: string): Host {
    return this.hosts.get(name)!;
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

  /** A new guardian on this host, as src/guardian/main.ts begins one. */
  async begin(host: Host): Promise<number> {
    const { config } = host;
    const { vm, timing, witness: choice } = config;
    const control = new SimControl() as unknown as ControlSocket;
    const log = {
      info: (text: string) => this.note(host.name, text),
      warn: (text: string) => this.note(host.name, `warning: ${text}`),
      error: (text: string) => {
        this.note(host.name, `error: ${text}`);
        if (text.startsWith("internal error")) this.bug(host.name, text);
      },
    } as unknown as Post["log"];
    const post: Post = {
      config,
      log,
      witness: new WitnessWatch({ choice, vm: vm.uuid, log, control, everyMs: timing.witnessMs }),
      control,
      stalls: new Stalls() as unknown as Post["stalls"],
      record: await StateFile.open(`/${host.name}/state/${vm.name}.json`, vm.uuid),
    };
    post.witness.begin();
    return await serve(post);
  }

  configOf(host: string): GuardianConfig {
    const other = host === "A" ? "B" : "A";
    const { nature } = this;
    const config = {
      role: host === "A" ? "primary" : "backup",
      vm: {
        name: "vm1",
        uuid: VM,
        machine: "pc",
        cpu: "qemu64",
        vcpus: 1,
        memoryMiB: 64,
        nics: [{ mac: "52:54:00:00:00:01", tap: "tap0", virtio: "standard" }],
        disks: [
          {
            image: `/${host}/disk.img`,
            format: "raw",
            bus: "virtio-blk",
            virtio: "standard",
            storage: "replicated",
            durability: "strict",
          },
        ],
        boot: { kind: "firmware" },
        extraArgs: [],
      },
      runDirectory: `/${host}/run`,
      imageDirectory: `/${host}/images`,
      cacheDirectory: `/${host}/cache`,
      stateDirectory: `/${host}/state`,
      timing: {
        intervalMs: nature.intervalMs,
        detectionMs: nature.detectionMs,
        heartbeatMs: 25,
        witnessMs: 30_000,
        retryMs: nature.retryMs,
      },
      limits: { stagingMiB: 64, maxInFlight: nature.maxInFlight, heldMiB: 64, diskMiB: 0.25, commitMiB: 256 },
      host,
      witness: { kind: "server", url: "http://witness" },
      protect: nature.protectAtStart ? "at-start" : "on-order",
      accelerator: "tcg",
      lab: { bindLifetimes: true },
      replication: { peer: { host: `${other}0`, port: 7000 }, listen: { host: `${host}0`, port: 7000 } },
    };
    return config as unknown as GuardianConfig;
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

  heard(host: string, { arrivedAtMs, sentAtMs }: Heard): void {
    this.host(host).heard = { arrivedAtMs, sentAtMs };
  }

  phase(host: string, role: string, phase: string): void {
    this.note(host, `${role}: ${phase}`);
    this.count(`${role} ${phase}`);
    this.step(host, `${role}:${phase}`);
  }

  /** Something has come to a point at which a fault may wait. */
  step(host: string, step: string): void {
    if (this.traps.length === 0) return;
    for (const trap of [...this.traps])
      if (trap.step === step && trap.left-- === 0) {
        this.traps = this.traps.filter((one) => one !== trap);
        trap.act(host);
      }
  }

  /** Calls `act` when somebody comes to this step for the so-manieth time, from 0. */
  at(step: string, after: number, act: (host: string) => void): void {
    this.traps.push({ step, left: after, act });
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

  violated(violation: Violation): void {
    if (this.ending) return;
    this.note("JUDGE", violation.message);
    this.violation ??= violation;
  }

  /** Production code has failed in a way that it calls impossible. */
  bug(host: string, error: unknown): void {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.checker.fail("bug", `${host}: ${text}`);
  }
}
