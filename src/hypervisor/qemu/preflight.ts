/**
 * Preflight: what would go wrong is said before anything is touched. Four looks: at the spec and the host,
 * and at the disks (disk-preflight.ts), before QEMU is started; at the running QEMU before it is protected
 * (live-preflight.ts); and at the backup before it takes a VM in.
 */
import type { MemoryBounds } from "../../memory/memory-bounds.ts";
import type { VmSpec } from "../vm-spec.ts";
import type { AcceleratorAnswer } from "./accelerator.ts";
import type { DiskImageFacts } from "./disk-image.ts";
import { diskRoomFindings } from "./disk-preflight.ts";
import { asksForDirtyRing, extraArgsFindings } from "./extra-args.ts";
import {
  directory,
  type HostFacts,
  type LinkFact,
  lookAtHost,
  memAvailableMiB,
  memoryLimitHint,
  spaceOf,
} from "./host-facts.ts";
import { machineFindings } from "./machine-options.ts";
import { endFindings, peripheralFiles } from "./peripherals.ts";
import { needsLibrary, ramKiB } from "./tcg-aids.ts";
import { error, type Finding, qemuTraps, warning } from "./traps.ts";

/** Memory of a QEMU process beside the guest's RAM, roughly. */
export const QEMU_MIB = 96;

export interface StaticQuestion {
  readonly accelerator: AcceleratorAnswer;
  /** What the configuration asks for. */
  readonly wanted: "auto" | "kvm" | "tcg";
  readonly runDirectory: string;
  readonly binary?: string;
  /**
   * The VM is to run here (the primary): is there memory for its RAM? At the backup, `backupPreflight` asks.
   */
  readonly runsHere: boolean;
}

/** Before QEMU is started: looks at this host and judges. An empty list is a good one. */
export async function staticPreflight(spec: VmSpec, question: StaticQuestion): Promise<Finding[]> {
  const { boot } = spec;
  const host = await lookAtHost({
    binary: question.binary ?? "qemu-system-x86_64",
    taps: spec.nics.map(({ tap }) => tap),
    files: [...(boot.kind === "kernel" ? [boot.kernel, boot.initrd] : []), ...peripheralFiles(spec)],
    runDirectory: question.runDirectory,
  });
  return judge(spec, question, host);
}

/** The judgement alone, over facts given. */
export function judge(spec: VmSpec, question: StaticQuestion, host: HostFacts): Finding[] {
  return [
    ...qemuFindings(spec, question, host),
    ...acceleratorFindings(question, host),
    ...spec.nics.flatMap((nic, index) => nicFindings(nic, index, host)),
    ...rightsFindings(spec, question, host),
    ...cpuFindings(spec.cpu),
    ...machineFindings(spec.machine),
    ...extraArgsFindings(spec.extraArgs),
    ...endFindings(spec),
    ...memoryFindings(spec, question, host),
  ];
}

function qemuFindings(spec: VmSpec, question: StaticQuestion, { qemu }: HostFacts): Finding[] {
  if (qemu.version === undefined) {
    const text = `${qemu.binary} cannot be used: ${qemu.problem}. Install QEMU (apt-get install qemu-system-x86).`;
    return [error("qemu-missing", text)];
  }
  // Remus starts this VM, so the aids will be there.
  const options = { dirtyRing: asksForDirtyRing(spec.extraArgs), library: true };
  return qemuTraps(qemu.version, accelerator(question), options);
}

function accelerator(question: StaticQuestion): "kvm" | "tcg" {
  return question.wanted === "auto" ? question.accelerator.accelerator : question.wanted;
}

function acceleratorFindings(question: StaticQuestion, host: HostFacts): Finding[] {
  const { wanted, accelerator: answer } = question;
  const found: Finding[] = [];
  if (wanted === "kvm" && answer.accelerator === "tcg" && !answer.kvmFirmwareOnly)
    found.push(error("no-kvm", `accelerator is "kvm", but ${answer.reason}. Set it to "auto", or mend KVM.`));
  else if (wanted === "kvm" && answer.accelerator === "tcg")
    found.push(warning("kvm-firmware-only", `accelerator is "kvm", but ${answer.reason}. Set it to "auto".`));
  if (wanted === "auto" && answer.accelerator === "tcg")
    found.push(
      warning(
        "slow",
        `The VM will run under slow software emulation (TCG): ${answer.reason}. Mend KVM for speed.`,
      ),
    );
  const { version } = host.qemu;
  if (accelerator(question) === "tcg" && !host.gcc && (version === undefined || needsLibrary(version)))
    found.push(
      error(
        "no-gcc",
        "gcc is missing; QEMU needs a small library under software emulation. apt-get install gcc libc6-dev.",
      ),
    );
  return found;
}

function nicFindings(nic: VmSpec["nics"][number], index: number, host: HostFacts): Finding[] {
  const field = `vm.nics[${index}].tap "${nic.tap}"`;
  const link = host.links.get(nic.tap);
  if (link === undefined)
    return [
      error(
        "tap-missing",
        `${field} does not exist in this network namespace. ` +
          `Make it: ip tuntap add ${nic.tap} mode tap; ip link set ${nic.tap} up master BRIDGE.`,
      ),
    ];
  if (link.kind !== "tap")
    return [error("tap-other", `${field} is a network device, but not a tap. Name a tap, or make one.`)];
  return [...tapFindings(field, nic.tap, link), ...macFindings(nic.mac, index, link)];
}

/** A bridge keeps frames for its own addresses and its ports' own to its host. */
function macFindings(mac: string, index: number, { macs }: LinkFact): Finding[] {
  if (!macs.includes(mac.toLowerCase())) return [];
  const text =
    `vm.nics[${index}].mac ${mac} is the address of its tap, or of the tap's bridge, on this host: the bridge would keep ` +
    "what is for the guest. Give the card another one; the tap's may be any other.";
  return [error("tap-mac", text)];
}

function tapFindings(field: string, tap: string, link: LinkFact): Finding[] {
  const found: Finding[] = [];
  if (link.multiQueue)
    found.push(
      error(
        "multiqueue",
        `${field} has several queues; Remus holds the output of one. ` +
          `Make it anew without multi_queue: ip tuntap del ${tap} mode tap multi_queue; ip tuntap add ${tap} mode tap.`,
      ),
    );
  if (link.busy)
    found.push(
      error("tap-busy", `${field} is in use by another process. Stop that one, or name another tap.`),
    );
  if (!link.up) found.push(warning("tap-down", `${field} is down. Set it up: ip link set ${tap} up.`));
  return found;
}

function rightsFindings(spec: VmSpec, question: StaticQuestion, host: HostFacts): Finding[] {
  const found: Finding[] = [];
  if (spec.nics.length > 0 && host.tun !== "open") {
    const todo =
      host.tun === "missing" ? "Load the module: modprobe tun." : "Run as root, or give this user the right.";
    found.push(error("no-tun", `/dev/net/tun is ${host.tun} here, and the VM's taps need it. ${todo}`));
  }
  found.push(...tapRights(spec, host));
  if (host.runDirectory !== "open")
    found.push(
      error(
        "run-directory",
        `runDirectory ${question.runDirectory} cannot be written. Give this user the right, or name another.`,
      ),
    );
  for (const [file, dial] of host.files)
    if (dial !== "open")
      found.push(
        error(
          "boot-file",
          `${file}, which the VM needs (vm.boot, vm.uefi, vm.cdroms), is ${dial === "missing" ? "not there" : "not readable"}.`,
        ),
      );
  return found;
}

/** As the kernel judges who opens a tap that is there: its owner and its group, where it has them. */
function mayOpen(host: HostFacts, { group, owner }: LinkFact): boolean {
  if (host.netAdmin) return true;
  return (
    (owner === undefined || owner === host.userId) && (group === undefined || host.groupIds.includes(group))
  );
}

function tapRights(spec: VmSpec, host: HostFacts): Finding[] {
  const found = spec.nics.flatMap(({ tap }) => {
    const link = host.links.get(tap);
    if (link === undefined || mayOpen(host, link)) return [];
    const owner = `made for ${[
      ...(link.owner === undefined ? [] : [`user ${link.owner}`]),
      ...(link.group === undefined ? [] : [`group ${link.group}`]),
    ].join(" and ")}`;
    return [
      error(
        "no-net-admin",
        `This user (${host.userId}) may not open tap "${tap}", which was ${owner}, and lacks CAP_NET_ADMIN. Run as root, or make the tap for this user: ip tuntap add ${tap} mode tap user ${host.userId}.`,
      ),
    ];
  });
  if (found.length > 0 || host.netAdmin || spec.nics.length === 0) return found;
  const text =
    "This user may open the VM's taps, but lacks CAP_NET_ADMIN and CAP_NET_RAW. So at a failover to this host the bridge is not told at once that the VM is here, and what clients send in those moments is not kept: " +
    "they wait until they send it again, mostly under a second. And a tap that is down stays down. Give the guardian the two capabilities (systemd: AmbientCapabilities=), or run as root.";
  return [warning("few-net-rights", text)];
}

function cpuFindings(cpu: string): Finding[] {
  const model = cpu.split(",")[0]!;
  if (model !== "host" && model !== "max") return [];
  const text = `vm.cpu is "${model}", which is another processor on another host. Name a model, unless both hosts are alike.`;
  return [warning("cpu-host", text)];
}

function memoryFindings(spec: VmSpec, question: StaticQuestion, host: HostFacts): Finding[] {
  const needed = spec.memoryMiB + QEMU_MIB;
  if (!question.runsHere || host.memAvailableMiB >= needed) return [];
  const text = `The VM needs ${needed} MiB here, and ${host.memAvailableMiB} MiB are available. Free some, or lower vm.memoryMiB.${host.memoryLimitHint ?? ""}`;
  return [error("memory", text)];
}

export interface BackupQuestion {
  readonly imageDirectory: string;
  /** The RAM image to be made there. */
  readonly imageFile: string;
  /** Memory for checkpoints that are not in the images yet. */
  readonly bounds: MemoryBounds;
  /** What the images of `vm.disks` are. */
  readonly images: readonly DiskImageFacts[];
}

/** At the backup: is there room for the RAM image, for staging, for the standby, and for the disks? */
export async function backupPreflight(spec: VmSpec, question: BackupQuestion): Promise<Finding[]> {
  const { bounds, imageDirectory, images } = question;
  const fact = await directory(imageDirectory);
  const found: Finding[] = [];
  if (fact.dial !== "open") {
    const text = `imageDirectory ${imageDirectory} cannot be written. Give this user the right, or name another.`;
    found.push(error("image-directory", text));
  }
  const imageMiB = Math.ceil(ramKiB(spec.memoryMiB, "tcg") / 1024);
  // An image that a guardian left which was killed is replaced.
  const oldMiB = Math.floor((await spaceOf(question.imageFile)) / 2 ** 20);
  const freeMiB = fact.freeMiB + oldMiB;
  if (freeMiB < imageMiB) {
    const room = `${imageDirectory} has room for ${freeMiB} MiB, and the RAM image takes ${imageMiB} MiB`;
    found.push(error("image-room", `${room}. Free some, or name another imageDirectory.`));
  }
  const available = (await memAvailableMiB()) + (fact.inMemory ? oldMiB : 0);
  const [commitMiB, totalMiB] = [bounds.commitBytes, bounds.totalBytes].map((bytes) =>
    Math.ceil(bytes / 2 ** 20),
  );
  // A second one loads checkpoint 0 on trial.
  const qemusMiB = 2 * QEMU_MIB;
  const standby = qemusMiB + (fact.inMemory ? imageMiB : 0);
  const needed = standby + commitMiB!;
  if (available < needed) {
    const hint = await memoryLimitHint();
    const parts = `${fact.inMemory ? `RAM image ${imageMiB}, ` : ""}checkpoints ${commitMiB}, QEMU ${qemusMiB}`;
    const text = `This host lacks memory for the standby: ${needed} MiB (${parts}), ${available} MiB available.`;
    found.push(error("backup-memory", `${text} Free some, or put imageDirectory on a disk.${hint}`));
  } else if (available < standby + totalMiB!) {
    const most = `checkpoints may take up to ${totalMiB} MiB here for a moment`;
    const text = `When the guest rewrites much of its memory at once, ${most}, and ${available - standby} MiB are left for them.`;
    const todo =
      "Free some, or set limits.checkpointMiB: a larger checkpoint then ends protection, and nothing else.";
    found.push(warning("backup-memory-peak", `${text} ${todo}`));
  }
  return [...found, ...(await diskRoomFindings(spec.disks, images))];
}
