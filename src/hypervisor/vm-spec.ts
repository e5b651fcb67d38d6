/**
 * What a VM is, as its guest sees it. Both hosts are given the same spec: the standby must be built of the same
 * machine, devices and sizes as the primary, or its device state will not load.
 */

/** One network card of the guest. `tap` is a host device that exists already and is a port of a bridge. */
export interface NicSpec {
  readonly mac: string;
  readonly tap: string;
}

/** How the guest starts: a kernel of its own, or firmware alone (nothing to boot; used to test capture over KVM). */
export type BootSpec =
  | { readonly kind: "kernel"; readonly kernel: string; readonly initrd: string; readonly append: string }
  | { readonly kind: "firmware" };

export interface VmSpec {
  readonly name: string;
  /** RFC 4122 text form. Names the VM on the replication link. */
  readonly uuid: string;
  /** A QEMU machine type or alias: `pc`, `q35`, `pc-i440fx-7.2`. */
  readonly machine: string;
  /** A named CPU model. `host` only where both hosts have the same processor. */
  readonly cpu: string;
  readonly vcpus: number;
  readonly memoryMiB: number;
  readonly nics: readonly NicSpec[];
  readonly boot: BootSpec;
  /** Further QEMU arguments, the same on both hosts. */
  readonly extraArgs: readonly string[];
}
