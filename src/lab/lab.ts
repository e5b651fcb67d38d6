/**
 * Two hosts, a client and one VM on one machine, all of them real: namespaces, QEMU, guardians, TCP.
 * The demo, the tests and the measurements all use this.
 */

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { BackupStatus, PrimaryStatus } from "../guardian/control/status.ts";
import type { VmSpec } from "../hypervisor/vm-spec.ts";
import { monotonicMs } from "../os/monotonic.ts";
import { CheckpointChecks, type RamCheck } from "./checkpoint-check.ts";
import { Children } from "./children.ts";
import { ClientProcess } from "./client-process.ts";
import {
  cacheDirectory,
  guardianConfig,
  guestAddresses,
  type LabOptions,
  labGuest,
  labVm,
  otherHost,
} from "./configuration.ts";
import { LabDisks } from "./disks.ts";
import { GuardianProcess } from "./guardian-process.ts";
import { diskLoadCommand, guestProblemPrefix, guestReadyLine, redisPort } from "./guest-image.ts";
import { makeFolder, processRuns, removeLeftovers } from "./leftovers.ts";
import { createNetwork, destroyStale, type HostName, type LabLink, type LabNetwork } from "./namespaces.ts";
import { ProxyProcess } from "./proxy-process.ts";
import { completeSearchPath } from "./search-path.ts";
import { WitnessProcess } from "./witness-process.ts";

export { guestAddresses, type LabOptions } from "./configuration.ts";
export { processRuns } from "./leftovers.ts";

const run = promisify(execFile);
const BOOT_TIMEOUT_MS = 60_000;
const STATUS_TIMEOUT_MS = 20_000;

/** `processes`: guardian and QEMU, and the host's network stays. */
export type Kill = "power" | "processes" | "qemu" | "guardian" | "link";

export class Lab {
  readonly network: LabNetwork;
  /** In memory: it holds the RAM files. */
  readonly directory: string;
  readonly cacheDirectory = cacheDirectory;
  /** The VM's spec, as in host A's configuration. */
  readonly vm: VmSpec;
  /** The hosts' disk images. */
  readonly disks: LabDisks;
  /** Who decides which host goes on alone: a host of its own. */
  witness!: WitnessProcess;
  /** The host on which the VM runs. */
  owner: HostName = "a";
  private readonly options: LabOptions;
  private readonly children = new Children();
  private readonly checks: CheckpointChecks;
  /** They must be killed by hand. */
  private readonly unboundQemus = new Set<number>();
  private readonly guardians: { a?: GuardianProcess; b?: GuardianProcess } = {};
  /** What the hosts' files say, whatever the hosts have become since. */
  private readonly roles = { a: "primary", b: "backup" } as const;
  /** What a failed host leaves: whether it lost power, and the QEMU that may be dying still. */
  private readonly failed: { a?: Failure; b?: Failure } = {};
  private destroyed: Promise<void> | undefined;

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
    this.checks = new CheckpointChecks(disks, this.ramFile);
  }

  /** Makes network, disks and guest image; nothing runs yet. */
  static async create(options: LabOptions = {}): Promise<Lab> {
    completeSearchPath(process.env);
    await destroyStale();
    const memory = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
    for (const parent of new Set([memory, tmpdir()])) await removeLeftovers(parent);
    const guest = await labGuest(options);
    const network = await createNetwork({ lans: options.nics ?? 1, links: options.links ?? 1 });
    let disks: LabDisks | undefined;
    let lab: Lab | undefined;
    try {
      disks = await LabDisks.create(options.disks ?? [], options.forgetful);
      const vm = labVm(options, guest, disks);
      lab = new Lab(network, await makeFolder(memory), options, vm, disks);
      await lab.startWitness();
      return lab;
    } catch (error) {
      await lab?.destroy();
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

  guardianOf(host: HostName): GuardianProcess {
    return this.guardians[host]!;
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
    return (await this.guardians[host]!.control.statusInRole()).qemuPid;
  }

  /** Both guardians, and a guest that has booted. */
  async start(): Promise<void> {
    await Promise.all([this.startBackup(), this.startPrimary()]);
    await this.guestReady();
  }

  /** Waits until the guest, which boots on the owner, serves: Redis, or echoes. */
  async guestReady(): Promise<void> {
    const { bootTimeoutMs = BOOT_TIMEOUT_MS } = this.options;
    const deadline = Date.now() + bootTimeoutMs;
    const log = this.serialLogOf(this.owner);
    for (;;) {
      const text = existsSync(log) ? await readFile(log, "utf8") : "";
      const problem = text.split("\n").find((line) => line.startsWith(guestProblemPrefix));
      if (problem !== undefined) throw new Error(problem);
      if (text.includes(guestReadyLine)) return;
      // The bench boots a QEMU of its own, without guardians.
      if (this.guardians[this.owner]?.alive === false)
        throw new Error(`the primary ended while the guest booted; see ${this.primary.logFile}`);
      if (Date.now() > deadline)
        throw new Error(`the guest did not boot within ${bootTimeoutMs} ms: ${text.slice(-500)}`);
      await new Promise((again) => setTimeout(again, 20));
    }
  }

  /** Resolves once checkpoint 0 is acknowledged. */
  async protect(): Promise<void> {
    await this.primary.control.order("protect");
  }

  /** The same for a protection that a guardian begins by itself, as it does after a switchover. */
  async untilProtected(): Promise<void> {
    await this.untilStatus(
      this.owner,
      ({ phase, acked = -1 }) => phase === "protected" && acked >= 0,
      "protects the VM",
    );
  }

  /** The same, asked for: what never lasts long is tried less and less often by itself. */
  async protectAgain(): Promise<void> {
    const asked = async () => {
      try {
        await this.protect();
        return true;
      } catch {
        await new Promise((again) => setTimeout(again, 100));
        return false;
      }
    };
    await until(asked, `host ${this.owner} protects the VM`);
  }

  async stopProtection(): Promise<void> {
    await this.primary.control.order("stop");
  }

  client(host: string = guestAddresses[0].ipv4, key = "counter"): ClientProcess {
    const prefix = this.network.exec("client");
    if (this.options.guest === "echo")
      return ClientProcess.ofEcho(this.children, prefix, { device: "lan0", mac: this.vm.nics[0]!.mac });
    return ClientProcess.ofRedis(this.children, prefix, { host, port: redisPort, key });
  }

  /** One command to the guest's Redis, from the client. Returns the answer as redis-cli prints it. */
  async redis(...words: readonly string[]): Promise<string> {
    const [program, ...prefix] = this.network.exec("client");
    const { stdout } = await run(program!, [...prefix, "redis-cli", "-h", guestAddresses[0].ipv4, ...words]);
    return stdout.trim();
  }

  /**
   * Writes all over these disks from now on, and no others; by their names in the guest (`disks.inGuest`).
   */
  async loadDisks(names: readonly string[]): Promise<void> {
    const taken = await this.redis(...diskLoadCommand(names));
    if (taken !== "1") throw new Error(`the guest took no order for its disks: Redis says ${taken}`);
  }

  /** A fault proxy on a host, from `from` to `to` (ADDRESS:PORT). */
  proxy(from: string, to: string, host: HostName = "a"): Promise<ProxyProcess> {
    return ProxyProcess.start(this.children, this.network.exec(host), from, to);
  }

  /** Gives the VM to the other host, both being well. */
  async switchover(): Promise<void> {
    await this.primary.control.order("switchover");
    this.owner = otherHost(this.owner);
  }

  /** Waits until the survivor of a failure runs the VM as its primary. */
  async failedOver(): Promise<void> {
    const survivor = otherHost(this.owner);
    await this.untilStatus(survivor, ({ role }) => role === "primary", "runs the VM");
    this.owner = survivor;
  }

  /**
   * The host that failed, and does not run the VM, comes back: its network, and a guardian with the file that
   * it always had, which finds out that it is the backup now; with the images and the state file that it had.
   * After a power failure nothing else of it is left.
   */
  returnHost(vm: Record<string, unknown> = {}): Promise<GuardianProcess> {
    return this.bringBack(otherHost(this.owner), vm);
  }

  /** The same for the host that ran the VM, when both have failed. */
  returnOwner(): Promise<GuardianProcess> {
    return this.bringBack(this.owner);
  }

  private async bringBack(host: HostName, vm: Record<string, unknown> = {}): Promise<GuardianProcess> {
    const guardian = this.guardians[host];
    const { power = false, qemuPid } = this.failed[host] ?? {};
    delete this.failed[host];
    if (guardian?.alive === true && qemuPid === undefined)
      throw new Error(`host ${host} cannot return: it has not failed`);
    await guardian?.exited;
    await until(() => qemuPid === undefined || !processRuns(qemuPid), `host ${host}'s QEMU ends`);
    if (power) {
      await this.forgetMemory(host);
      await this.disks.powerIsBack(host);
      await this.network.restartHost(host);
    }
    return await this.startGuardian(host, this.roles[host], vm);
  }

  /**
   * Holds the VM at its next checkpoint, or the first from `atEpoch` on, and compares the primary's RAM with
   * the backup's image, byte for byte (I7), and their disks, if `disks` says so.
   */
  ramCheck(atEpoch = 0, { disks = false } = {}): Promise<RamCheck> {
    return this.checks.check(this, atEpoch, disks);
  }

  /**
   * Lets a host fail, the one that runs the VM if not told otherwise. Returns when (monotonicMs).
   * @param knownPid of its QEMU, where the guardian cannot be asked
   */
  async kill(kind: Kill, host: HostName = this.owner, knownPid?: number): Promise<number> {
    const guardian = this.guardians[host]!;
    const qemuPid = knownPid ?? (await this.qemuPid(host));
    if (kind !== "link") this.failed[host] = { power: kind === "power", qemuPid };
    if (kind === "power") await this.network.cutHost(host);
    const atMs = monotonicMs();
    if (kind !== "guardian" && kind !== "link") process.kill(qemuPid, "SIGKILL");
    if (kind !== "qemu" && kind !== "link") guardian.signal("SIGKILL");
    if (kind === "power") this.disks.losePower(host);
    if (kind === "link") await this.cut("link");
    return atMs;
  }

  /** Pulls the cable between the hosts, or the one to the witness: of both hosts, or of one. */
  cut(link: LabLink, host?: HostName): Promise<void> {
    return this.network.cut(link, host);
  }

  /** Puts it back. */
  mend(link: LabLink, host?: HostName): Promise<void> {
    return this.network.restore(link, host);
  }

  /** The witness, which was killed, comes back with what it knew. */
  async startWitness(): Promise<void> {
    const directory = join(this.directory, "witness");
    this.witness = await WitnessProcess.start(this.children, this.network, directory, this.witness);
  }

  /**
   * Waits until the witness has decided which host goes on, and that host's VM has no backup: it is the owner
   * from here on. The other host's VM is not to be running then.
   */
  async decided(): Promise<HostName> {
    const alone = async (host: HostName): Promise<boolean> => {
      const status = this.guardians[host]?.control.statusInRole();
      // One that hangs gives no answer.
      const late = new Promise<undefined>((resolve) => setTimeout(resolve, 500, undefined));
      const { role, phase } = (await Promise.race([status?.catch(() => undefined), late])) ?? {};
      return role === "primary" && ["ending", "unprotected", "connecting", "syncing"].includes(phase ?? "");
    };
    let owner: HostName | undefined;
    const look = async (): Promise<boolean> => {
      const [a, b] = [await alone("a"), await alone("b")];
      if (a && b) throw new Error("the VM runs on both hosts");
      owner = a ? "a" : b ? "b" : undefined;
      return owner !== undefined;
    };
    await until(look, "one host goes on alone");
    this.owner = owner!;
    return this.owner;
  }

  /**
   * Ends every process and removes every file and namespace of this lab. Asked twice, as when Ctrl-C meets
   * the end, it does so once.
   */
  destroy(): Promise<void> {
    this.destroyed ??= this.takeDown();
    return this.destroyed;
  }

  private async takeDown(): Promise<void> {
    await this.children.end();
    for (const pid of this.unboundQemus) if (processRuns(pid)) process.kill(pid, "SIGKILL");
    this.checks.close();
    await this.network.destroy();
    await rm(this.directory, { recursive: true, force: true });
    await this.disks.destroy();
  }

  /** What the guest writes to its serial port while it runs on this host. */
  serialLogOf(host: HostName): string {
    return join(this.directory, `serial-${host}.log`);
  }

  /** The same, on host A. */
  get serialLog(): string {
    return this.serialLogOf("a");
  }

  private get ramFile(): string {
    return join(this.directory, "a", "ram");
  }

  private async startGuardian(
    host: HostName,
    role: "primary" | "backup",
    vm: Record<string, unknown> = {},
  ): Promise<GuardianProcess> {
    const { bindLifetimes, onEvent } = this.options;
    const directory = join(this.directory, host);
    const places = {
      directory,
      stateDirectory: this.disks.stateDirectory(host),
      serialLog: this.serialLogOf(host),
      witness: this.witness.config,
      ...(host === "a" ? { ramFile: this.ramFile } : {}),
    };
    const guardian = await GuardianProcess.start(
      directory,
      guardianConfig(
        { host, role, vm: { ...this.vm, disks: this.disks.spec(host), ...vm } },
        places,
        this.options,
      ),
      [...this.network.exec(host), ...(this.options.guardianWords?.(host) ?? [])],
      this.children,
      (event) => onEvent?.(host, event),
    );
    this.guardians[host] = guardian;
    if (bindLifetimes === false) this.unboundQemus.add(await this.qemuPid(host));
    return guardian;
  }

  /** A host without power keeps what is on its disks. The log is no part of it, but ours. */
  private async forgetMemory(host: HostName): Promise<void> {
    const directory = join(this.directory, host);
    for (const name of await readdir(directory))
      if (name !== "guardian.log") await rm(join(directory, name), { recursive: true, force: true });
  }

  private async untilStatus(
    host: HostName,
    right: (status: PrimaryStatus | BackupStatus) => boolean,
    what: string,
  ): Promise<void> {
    const { control } = this.guardians[host]!;
    const look = async () => {
      const status = await control.status();
      // A guardian that has given its VM away starts anew, and has no role for a moment.
      return status.role !== "starting" && right(status);
    };
    await until(look, `host ${host} ${what}`);
  }
}

interface Failure {
  readonly power: boolean;
  readonly qemuPid: number;
}

/** There is no event to wait for. */
async function until(look: () => Promise<boolean> | boolean, what: string): Promise<void> {
  const deadline = Date.now() + STATUS_TIMEOUT_MS;
  while (!(await look())) {
    if (Date.now() > deadline) throw new Error(`not within ${STATUS_TIMEOUT_MS} ms: ${what}`);
    await new Promise((again) => setTimeout(again, 10));
  }
}
