/** What the lab's VM is, and what its guardians are told. */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import type { HeardEvent } from "../guardian/control/events.ts";
import type { VmSpec } from "../hypervisor/vm-spec.ts";
import type { LabDisk, LabDisks } from "./disks.ts";
import { buildEchoRom, echoArguments } from "./echo-guest.ts";
import { buildGuestImage, type GuestImage, type GuestLoad, guestAppend, guestCpu } from "./guest-image.ts";
import { type HostName, labAddresses } from "./namespaces.ts";

const REPLICATION_PORT = 7000;

export const cacheDirectory = join(import.meta.dirname, "../../.cache");

/** The guest's addresses, one pair per LAN. */
export const guestAddresses = [
  { ipv4: "10.77.0.10", ipv6: "fd77::10" },
  { ipv4: "10.77.1.10", ipv6: "fd77:1::10" },
] as const;

/** What the VM boots: Linux with Redis, or firmware and the option ROM in this file (guest/echo.S). */
type LabGuest =
  | { readonly kind: "linux"; readonly image: GuestImage }
  | { readonly kind: "echo"; readonly rom: string };

export interface LabOptions {
  /**
   * Default linux. `echo` has no operating system, so it runs where KVM runs firmware and no Linux; it has
   * one card, one vCPU and no disk.
   */
  readonly guest?: LabGuest["kind"];
  /**
   * In place of the lab's own Linux: a kernel with what it boots, which says on its console when it serves
   * (`guestReadyLine`).
   */
  readonly boot?: Extract<VmSpec["boot"], { readonly kind: "kernel" }>;
  /** How long the guest may take until it serves; default 60 s. */
  readonly bootTimeoutMs?: number;
  /** Default auto: what Linux runs with. */
  readonly accelerator?: "auto" | "kvm" | "tcg";
  /** Default 256; 64 for `echo`. */
  readonly memoryMiB?: number;
  readonly vcpus?: number;
  readonly machine?: string;
  readonly nics?: 1 | 2;
  /** Between the two hosts. */
  readonly links?: 1 | 2;
  /** Default legacy: a shorter pause (vm-spec.ts). */
  readonly virtio?: "standard" | "legacy";
  readonly load?: GuestLoad;
  readonly disks?: readonly LabDisk[];
  /** A host that loses power loses what it has not synced (forgetful-disk.ts). */
  readonly forgetful?: boolean;
  /** Bandwidth limit of a sync. */
  readonly syncMiBps?: number;
  readonly limits?: Readonly<Record<string, number>>;
  readonly intervalMs?: number;
  readonly detectionMs?: number;
  /** Off: QEMU outlives its guardian. Only to look at what the filters do then. */
  readonly bindLifetimes?: boolean;
  /** Where the primary connects to instead of the backup: a proxy of the test's. */
  readonly replicationPeer?: string;
  /** Words before a host's guardian: the environment of a test build. */
  readonly guardianWords?: (host: HostName) => readonly string[];
  /** Another witness than the lab's own, as in a guardian's configuration file. */
  readonly witness?: Readonly<Record<string, unknown>>;
  /** From one look at the witness to the next. */
  readonly witnessMs?: number;
  /** From the end of a protection to the first try to protect the VM again. */
  readonly retryMs?: number;
  /** After which a QEMU that gives no sign of life is taken for dead. */
  readonly hungMs?: number;
  /** So long a VM may take to shut down, when its guardian is asked to end. */
  readonly shutdownMs?: number;
  readonly onEvent?: (host: HostName, event: HeardEvent) => void;
}

/** Where a host keeps what it has. */
export interface HostPlaces {
  /** In memory. */
  readonly directory: string;
  readonly stateDirectory: string;
  readonly serialLog: string;
  /** The lab's witness, as a host is told of it. */
  readonly witness: Readonly<Record<string, unknown>>;
  /** RAM of the VM, should it be booted here. */
  readonly ramFile?: string;
}

/** What the lab's VM boots; built if need be. */
export async function labGuest({ guest = "linux" }: LabOptions): Promise<LabGuest> {
  if (guest === "echo") return { kind: "echo", rom: await buildEchoRom(cacheDirectory) };
  return { kind: "linux", image: await buildGuestImage() };
}

/** The VM, with host A's disk images. */
export function labVm(options: LabOptions, guest: LabGuest, disks: LabDisks): VmSpec {
  const nics = Array.from({ length: options.nics ?? 1 }, (_, lan) => ({
    mac: `52:54:00:72:65:0${lan}`,
    ipv4: `${guestAddresses[lan]!.ipv4}/24`,
    ipv6: `${guestAddresses[lan]!.ipv6}/64`,
  }));
  const hardware = {
    name: "lab",
    uuid: randomUUID(),
    machine: options.machine ?? "pc",
    vcpus: options.vcpus ?? 1,
    nics: nics.map(({ mac }, lan) => ({ mac, tap: `tap${lan}`, virtio: options.virtio ?? "legacy" })),
    disks: disks.spec("a"),
  };
  if (guest.kind === "echo")
    return {
      ...hardware,
      cpu: "qemu64",
      memoryMiB: options.memoryMiB ?? 64,
      boot: { kind: "firmware" },
      extraArgs: echoArguments(guest.rom),
    };
  const append = guestAppend({ nics, load: options.load ?? "idle", disks: disks.inGuest });
  return {
    ...hardware,
    cpu: guestCpu,
    memoryMiB: options.memoryMiB ?? 256,
    boot: options.boot ?? { kind: "kernel", ...guest.image, append },
    extraArgs: [],
  };
}

/**
 * A guardian's configuration file. Both hosts can be reached and reach the other, so that roles can change.
 */
export function guardianConfig(
  { host, role, vm }: { host: HostName; role: "primary" | "backup"; vm: Record<string, unknown> },
  { directory, stateDirectory, serialLog, ramFile, witness }: HostPlaces,
  options: LabOptions,
): Record<string, unknown> {
  const { intervalMs, detectionMs, bindLifetimes, limits, replicationPeer, syncMiBps } = options;
  const { hungMs, retryMs, shutdownMs, witnessMs } = options;
  const { replication, secondReplication } = labAddresses;
  const links = [replication, secondReplication].slice(0, options.links ?? 1);
  const addresses = (of: HostName) => {
    const all = links.map((link) => `${link[of]}:${REPLICATION_PORT}`);
    return all.length === 1 ? all[0] : all;
  };
  return {
    role,
    vm,
    ...(options.accelerator === undefined ? {} : { accelerator: options.accelerator }),
    replication: { listen: addresses(host), peer: replicationPeer ?? addresses(otherHost(host)) },
    runDirectory: directory,
    imageDirectory: join(directory, "image"),
    stateDirectory,
    cacheDirectory,
    timing: {
      ...(intervalMs === undefined ? {} : { intervalMs }),
      ...(detectionMs === undefined ? {} : { detectionMs }),
      ...(syncMiBps === undefined ? {} : { syncMiBps }),
      ...(witnessMs === undefined ? {} : { witnessMs }),
      ...(retryMs === undefined ? {} : { retryMs }),
      ...(hungMs === undefined ? {} : { hungMs }),
      ...(shutdownMs === undefined ? {} : { shutdownMs }),
    },
    limits: limits ?? {},
    host: `host-${host}`,
    witness: options.witness ?? witness,
    lab: {
      serialLog,
      ...(ramFile === undefined ? {} : { ramFile }),
      ...(bindLifetimes === undefined ? {} : { bindLifetimes }),
    },
  };
}

export function otherHost(host: HostName): HostName {
  return host === "a" ? "b" : "a";
}
