/**
 * Two hosts, a client and one VM on one machine, all of them real: namespaces, QEMU, guardians, TCP.
 * The demo, the tests and the measurements all use this.
 */
import { randomUUID } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { GuardianEvent } from "../guardian/control-client.ts";
import { monotonicMs } from "../guardian/monotonic.ts";
import type { VmSpec } from "../hypervisor/vm-spec.ts";
import { Children } from "./children.ts";
import { ClientProcess } from "./client-process.ts";
import { type DiskCheck, differingOffsets } from "./disk-check.ts";
import { type LabDisk, LabDisks } from "./disks.ts";
import { GuardianProcess } from "./guardian-process.ts";
import {
  buildGuestImage,
  type GuestLoad,
  guestAppend,
  guestCpu,
  guestProblemPrefix,
  guestReadyLine,
  redisPort,
} from "./guest-image.ts";
import { createNetwork, destroyStale, type HostName, type LabNetwork, labAddresses } from "./namespaces.ts";
import { ProxyProcess } from "./proxy-process.ts";
import { RamComparison } from "./ram-check.ts";

const BOOT_TIMEOUT_MS = 60_000;
const REPLICATION_PORT = 7000;
const cacheDirectory = join(import.meta.dirname, "../../.cache");

/** Removes what labs have left whose process was killed. */
async function removeStaleDirectories(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const pid = /^remus-lab-(\d+)-/.exec(name)?.[1];
    if (pid !== undefined && !processRuns(Number(pid)))
      await rm(join(parent, name), { recursive: true, force: true });
  }
}

/** Whether a process is there and not merely waiting to be reaped. */
export function processRuns(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return !["Z", "X"].includes(stat.slice(stat.lastIndexOf(")") + 2)[0]!);
  } catch {
    return false;
  }
}

/** The guest's addresses, one pair per LAN. */
export const guestAddresses = [
  { ipv4: "10.77.0.10", ipv6: "fd77::10" },
  { ipv4: "10.77.1.10", ipv6: "fd77:1::10" },
] as const;

export type Kill = "power" | "qemu" | "guardian" | "link";

export interface LabOptions {
  readonly memoryMiB?: number;
  readonly vcpus?: number;
  readonly machine?: string;
  readonly nics?: 1 | 2;
  /** Default legacy: a shorter pause (vm-spec.ts). */
  readonly virtio?: "standard" | "legacy";
  readonly load?: GuestLoad;
  readonly disks?: readonly LabDisk[];
  /** Bandwidth limit of a sync. */
  readonly syncMiBps?: number;
  readonly limits?: Readonly<Record<string, number>>;
  readonly intervalMs?: number;
  readonly detectionMs?: number;
  /** Off: QEMU outlives its guardian. Only to look at what the filters do then. */
  readonly bindLifetimes?: boolean;
  /** Where the primary connects to instead of the backup: a proxy of the test's. */
  readonly replicationPeer?: string;
  readonly onEvent?: (host: HostName, event: GuardianEvent) => void;
}

export interface RamCheck {
  readonly epoch: number;
  /** Numbers of the pages that differ. */
  readonly differing: readonly number[];
  /** Where the disks differ; empty if they were not looked at. */
  readonly disks: readonly DiskCheck[];
}

export class Lab {
  readonly network: LabNetwork;
  /** In memory: it holds the RAM files. */
  readonly directory: string;
  readonly cacheDirectory = cacheDirectory;
  /** The VM's spec, as in a guardian's configuration. */
  readonly vm: VmSpec;
  /** The hosts' disk images. */
  readonly disks: LabDisks;
  /** The host on which the VM runs. */
  owner: HostName = "a";
  private readonly options: LabOptions;
  private readonly children = new Children();
  /** They must be killed by hand. */
  private readonly unboundQemus = new Set<number>();
  private compared: { readonly files: string; readonly ram: RamComparison } | undefined;
  private readonly guardians: { a?: GuardianProcess; b?: GuardianProcess } = {};

  private constructor(
    network: LabNetwork,
    directory: string,
    options: LabOptions,
    vm: VmSpec,
    disks: LabDisks,
  ) {
    this.network = network;
    this.directory = directory;
    this.options = options;
    this.vm = vm;
    this.disks = disks;
  }

  /** Makes network and guest image; nothing runs yet. */
  static async create(options: LabOptions = {}): Promise<Lab> {
    await destroyStale();
    const memory = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
    for (const parent of new Set([memory, tmpdir()])) await removeStaleDirectories(parent);
    const image = await buildGuestImage();
    const lans = options.nics ?? 1;
    const network = await createNetwork({ lans });
    let disks: LabDisks | undefined;
    try {
      disks = await LabDisks.create(options.disks ?? []);
      const nics = Array.from({ length: lans }, (_, lan) => ({
        mac: `52:54:00:72:65:0${lan}`,
        ipv4: `${guestAddresses[lan]!.ipv4}/24`,
        ipv6: `${guestAddresses[lan]!.ipv6}/64`,
      }));
      const vm: VmSpec = {
        name: "lab",
        uuid: randomUUID(),
        machine: options.machine ?? "pc",
        cpu: guestCpu,
        vcpus: options.vcpus ?? 1,
        memoryMiB: options.memoryMiB ?? 256,
        nics: nics.map(({ mac }, lan) => ({ mac, tap: `tap${lan}`, virtio: options.virtio ?? "legacy" })),
        disks: disks.spec("a"),
        boot: {
          kind: "kernel",
          ...image,
          append: guestAppend({ nics, load: options.load ?? "idle", disks: disks.inGuest }),
        },
        extraArgs: [],
      };
      return new Lab(network, await mkdtemp(join(memory, `remus-lab-${process.pid}-`)), options, vm, disks);
    } catch (error) {
      await disks?.destroy();
      await network.destroy();
      throw error;
    }
  }

  /** The guardian of the host on which the VM runs. */
  get primary(): GuardianProcess {
    return this.guardians[this.owner]!;
  }

  /** The guardian of the other host. */
  get backup(): GuardianProcess {
    return this.guardians[otherHost(this.owner)]!;
  }

  /** @param vm fields of the VM's spec that are to be others than at the primary */
  startBackup(vm: Record<string, unknown> = {}): Promise<GuardianProcess> {
    return this.startGuardian(otherHost(this.owner), "backup", vm);
  }

  /** @param vm fields of the VM's spec that are to be others than the lab's */
  startPrimary(vm: Record<string, unknown> = {}): Promise<GuardianProcess> {
    return this.startGuardian(this.owner, "primary", vm);
  }

  async qemuPid(host: HostName): Promise<number> {
    return (await this.guardians[host]!.control.order<{ qemuPid: number }>("status")).qemuPid;
  }

  /** Both guardians, and a guest that has booted. */
  async start(): Promise<void> {
    await Promise.all([this.startBackup(), this.startPrimary()]);
    await this.guestReady();
  }

  /** Waits until Redis answers inside the guest. */
  async guestReady(): Promise<void> {
    const deadline = Date.now() + BOOT_TIMEOUT_MS;
    const log = this.serialLog;
    for (;;) {
      const text = existsSync(log) ? await readFile(log, "utf8") : "";
      const problem = text.split("\n").find((line) => line.startsWith(guestProblemPrefix));
      if (problem !== undefined) throw new Error(problem);
      if (text.includes(guestReadyLine)) return;
      if (!this.primary.alive)
        throw new Error(`the primary ended while the guest booted; see ${this.primary.logFile}`);
      if (Date.now() > deadline)
        throw new Error(`the guest did not boot within ${BOOT_TIMEOUT_MS} ms: ${text.slice(-500)}`);
      await new Promise((again) => setTimeout(again, 20));
    }
  }

  /** Resolves once checkpoint 0 is acknowledged. */
  async protect(): Promise<void> {
    await this.primary.control.order("protect");
  }

  async stopProtection(): Promise<void> {
    await this.primary.control.order("stop");
  }

  client(host: string = guestAddresses[0].ipv4, key = "counter"): ClientProcess {
    return ClientProcess.start(this.children, this.network.exec("client"), host, redisPort, key);
  }

  /** A fault proxy on host A, from `from` to `to` (ADDRESS:PORT). */
  proxy(from: string, to: string): Promise<ProxyProcess> {
    return ProxyProcess.start(this.children, this.network.exec("a"), from, to);
  }

  /** Gives the VM to the other host, both being well. */
  async switchover(): Promise<void> {
    await this.primary.control.order("switchover");
    this.owner = otherHost(this.owner);
  }

  /** Waits until the survivor of a failure runs the VM as its primary. */
  async failedOver(): Promise<void> {
    const survivor = otherHost(this.owner);
    await this.until(
      async () =>
        (await this.guardians[survivor]!.control.order<{ role: string }>("status")).role === "primary",
      `host ${survivor} runs the VM`,
    );
    this.owner = survivor;
  }

  /** Brings a host that was lost back: its network, and a guardian that takes the VM in as a backup. */
  async returnHost(): Promise<void> {
    const host = otherHost(this.owner);
    await this.network.restoreHost(host);
    await this.startGuardian(host, "backup");
  }

  /**
   * Holds the VM at its next checkpoint, or the first from `atEpoch` on, and compares the primary's RAM with the backup's image, byte for byte
   * (I7), and their disks, if `disks` says so.
   */
  async ramCheck(atEpoch = 0, { disks = false } = {}): Promise<RamCheck> {
    const ram = await this.comparison();
    const { epoch } = await this.primary.control.order<{ epoch: number }>("hold", { atEpoch });
    try {
      for (;;) {
        const status = await this.backup.control.order<{ committed?: number }>("status");
        if (status.committed === epoch)
          return { epoch, differing: ram.differingPages(), disks: disks ? await this.diskCheck() : [] };
        if (status.committed === undefined || status.committed > epoch)
          throw new Error(`the backup is at ${status.committed}, the held VM at ${epoch}`);
      }
    } finally {
      await this.primary.control.order("proceed").catch(() => {});
    }
  }

  /** With the VM held, and everything committed. */
  private async diskCheck(): Promise<DiskCheck[]> {
    await this.backup.control.order("flush-disks");
    const replicated = this.vm.disks.flatMap(({ storage }, index) =>
      storage === "replicated" ? [index] : [],
    );
    return await Promise.all(
      replicated.map(async (disk) => ({
        disk,
        offsets: await differingOffsets(
          this.disks.image("a", disk),
          this.disks.image("b", disk),
          this.vm.disks[disk]!.format,
        ),
      })),
    );
  }

  /** Made before the VM is held. Which files there are changes with the roles, and with a new guardian. */
  private async comparison(): Promise<RamComparison> {
    const ours = await this.primary.control.order<{ ramImage?: string }>("status");
    const theirs = await this.backup.control.order<{ ramImage: string; qemuPid: number }>("status");
    const ramFile = ours.ramImage ?? this.ramFile;
    const files = `${ramFile} ${theirs.ramImage} ${theirs.qemuPid}`;
    if (this.compared?.files !== files) {
      this.compared?.ram.close();
      this.compared = { files, ram: new RamComparison(ramFile, theirs.ramImage) };
    }
    return this.compared.ram;
  }

  /** Lets the host that runs the VM fail. Returns when (monotonicMs). */
  async kill(kind: Kill): Promise<number> {
    const qemuPid = await this.qemuPid(this.owner);
    if (kind === "power") await this.network.cutHost(this.owner);
    const atMs = monotonicMs();
    if (kind === "power" || kind === "qemu") process.kill(qemuPid, "SIGKILL");
    if (kind === "power" || kind === "guardian") this.primary.signal("SIGKILL");
    if (kind === "link") await this.network.cutReplication();
    return atMs;
  }

  /** Ends every process and removes every file and namespace of this lab. */
  async destroy(): Promise<void> {
    await this.children.end();
    for (const pid of this.unboundQemus) if (processRuns(pid)) process.kill(pid, "SIGKILL");
    this.compared?.ram.close();
    this.compared = undefined;
    await this.network.destroy();
    await rm(this.directory, { recursive: true, force: true });
    await this.disks.destroy();
  }

  /** What the guest writes to its serial port, on host A. */
  get serialLog(): string {
    return join(this.directory, "serial.log");
  }

  private get ramFile(): string {
    return join(this.directory, "a", "ram");
  }

  private async startGuardian(
    host: HostName,
    role: "primary" | "backup",
    vm: Record<string, unknown> = {},
  ): Promise<GuardianProcess> {
    const directory = join(this.directory, host);
    const { intervalMs, detectionMs, bindLifetimes, limits, onEvent, replicationPeer, syncMiBps } =
      this.options;
    const address = (of: HostName) => `${labAddresses.replication[of]}:${REPLICATION_PORT}`;
    const config = {
      role,
      vm: { ...this.vm, disks: this.disks.spec(host), ...vm },
      replication: { listen: address(host), peer: replicationPeer ?? address(otherHost(host)) },
      runDirectory: directory,
      imageDirectory: join(directory, "image"),
      stateDirectory: this.disks.stateDirectory(host),
      cacheDirectory,
      timing: {
        ...(intervalMs === undefined ? {} : { intervalMs }),
        ...(detectionMs === undefined ? {} : { detectionMs }),
        ...(syncMiBps === undefined ? {} : { syncMiBps }),
      },
      limits: limits ?? {},
      arbiter: "assume-no-partition",
      lab: {
        ...(host === "a" ? { ramFile: this.ramFile, serialLog: this.serialLog } : {}),
        ...(bindLifetimes === undefined ? {} : { bindLifetimes }),
      },
    };
    const guardian = await GuardianProcess.start(
      directory,
      config,
      this.network.exec(host),
      this.children,
      (event) => onEvent?.(host, event),
    );
    this.guardians[host] = guardian;
    if (bindLifetimes === false) this.unboundQemus.add(await this.qemuPid(host));
    return guardian;
  }

  private async until(look: () => Promise<boolean>, what: string, withinMs = 20_000): Promise<void> {
    const deadline = Date.now() + withinMs;
    while (!(await look())) {
      if (Date.now() > deadline) throw new Error(`not within ${withinMs} ms: ${what}`);
      await new Promise((again) => setTimeout(again, 10));
    }
  }
}

function otherHost(host: HostName): HostName {
  return host === "a" ? "b" : "a";
}
