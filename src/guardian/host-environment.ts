/**
 * What both roles do to have a QEMU beside them: judge the host, choose the accelerator, start the process.
 */
import { mkdirSync } from "node:fs";
import { probeAccelerator } from "../hypervisor/qemu/accelerator.ts";
import { qemuCommand } from "../hypervisor/qemu/command-line.ts";
import type { DiskImageFacts } from "../hypervisor/qemu/disk-image.ts";
import { diskPreflight } from "../hypervisor/qemu/disk-preflight.ts";
import { bootFingerprint, type Fingerprint, fingerprint } from "../hypervisor/qemu/fingerprint.ts";
import { GROUPS } from "../hypervisor/qemu/fingerprint-groups.ts";
import { lookAtQemu } from "../hypervisor/qemu/host-facts.ts";
import { staticPreflight } from "../hypervisor/qemu/preflight.ts";
import { QemuProcess } from "../hypervisor/qemu/process.ts";
import { runningMachine } from "../hypervisor/qemu/running-machine.ts";
import { type Accelerator, buildTcgAids, needsLibrary, tcgNotice } from "../hypervisor/qemu/tcg-aids.ts";
import type { Finding } from "../hypervisor/qemu/traps.ts";
import { networkLink } from "../os/network-link.ts";
import type { GuardianConfig } from "./config/config.ts";
import type { Log } from "./log.ts";
import { directoryFindings } from "./own-directories.ts";

/** Something stands in the way of protection. One sentence a finding. */
export class PreflightFailed extends Error {
  readonly findings: readonly Finding[];
  constructor(findings: readonly Finding[]) {
    super(findings.map(({ code, message }) => `${message} [${code}]`).join("\n"));
    this.name = "PreflightFailed";
    this.findings = findings;
  }
}

/** Logs warnings; throws `PreflightFailed` if there is an error among the findings. */
export function checkFindings(findings: readonly Finding[], log: Log): void {
  for (const { severity, message } of findings) if (severity === "warning") log.warn(message);
  const errors = findings.filter(({ severity }) => severity === "error");
  if (errors.length > 0) throw new PreflightFailed(errors);
}

export interface HostEnvironment {
  readonly accelerator: Accelerator;
  readonly preload: string | undefined;
  /** What the images of `vm.disks` are, in order. */
  readonly images: readonly DiskImageFacts[];
  /** Kernel and initrd as QEMU has loaded them. */
  readonly boot: Fingerprint;
}

/** Looks before anything is touched: which accelerator works, and whether this host can run the VM at all. */
export async function prepareEnvironment(config: GuardianConfig, log: Log): Promise<HostEnvironment> {
  const directories = directoryFindings(config);
  checkFindings(
    directories.filter(({ severity }) => severity === "error"),
    log,
  );
  mkdirSync(config.runDirectory, { recursive: true });
  const { boot } = config.vm;
  const disks = await diskPreflight(config.vm.disks, config);
  const answer = await probeAccelerator({
    cacheDir: config.cacheDirectory,
    ...(boot.kind === "kernel" ? { kernel: boot.kernel } : {}),
  });
  const findings = await staticPreflight(config.vm, {
    accelerator: answer,
    wanted: config.accelerator,
    runDirectory: config.runDirectory,
    runsHere: config.role === "primary",
  });
  checkFindings([...directories, ...findings, ...disks.findings], log);
  const environment = { images: disks.images, boot: bootFingerprint(config.vm) };
  const accelerator = config.accelerator === "auto" ? answer.accelerator : config.accelerator;
  if (accelerator === "kvm") return { accelerator, preload: undefined, ...environment };
  const { version } = await lookAtQemu();
  const library = version === undefined || needsLibrary(version);
  log.warn(tcgNotice(library));
  return {
    accelerator,
    preload: library ? await buildTcgAids(config.cacheDirectory) : undefined,
    ...environment,
  };
}

/** Starts the VM, or its standby, which maps `ramFile` and waits for the state. */
export function startQemu(
  config: GuardianConfig,
  environment: HostEnvironment,
  places: { role: "primary" | "standby"; ramFile: string | undefined },
): Promise<QemuProcess> {
  const { role, ramFile } = places;
  const command = qemuCommand(config.vm, {
    role,
    accelerator: environment.accelerator,
    qmpSockets: QemuProcess.monitorPaths(config.runDirectory),
    ...(ramFile === undefined ? {} : { ramFile }),
    ...(config.lab.serialLog === undefined ? {} : { serialLog: config.lab.serialLog }),
  });
  return QemuProcess.start({
    command,
    preload: environment.preload,
    runDirectory: config.runDirectory,
    bindLifetimes: config.lab.bindLifetimes,
  });
}

/**
 * The guest-visible hardware as it is at this moment. Fails when a file of the VM's cannot be read, or QEMU
 * does not answer.
 */
export async function machineOf(
  config: GuardianConfig,
  environment: HostEnvironment,
  { pid, qmp }: QemuProcess,
): Promise<Fingerprint> {
  const { accelerator, boot, images } = environment;
  const { package: qemuPackage, version: qemuVersion } = qmp;
  const running = await runningMachine(qmp, pid);
  const machine = fingerprint(config.vm, { accelerator, qemuVersion, qemuPackage, images, running, boot });
  return { ...machine, ...tapMtus(config.vm) };
}

/** Of the taps that are there. */
function tapMtus({ nics }: GuardianConfig["vm"]): Fingerprint {
  const mtus = nics.flatMap(({ tap }, index) => {
    const link = networkLink(tap);
    return link === undefined ? [] : [[`${GROUPS.mtu}nics[${index}]`, link.mtu]];
  });
  return Object.fromEntries(mtus) as Fingerprint;
}
