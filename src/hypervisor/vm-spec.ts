/**
 * What a VM is, as its guest sees it. Both hosts are given the same spec: the standby must be built of the
 * same machine, devices and sizes as the primary, or its device state will not load.
 */

/** One network card of the guest. `tap` is a host device that exists already and is a port of a bridge. */
export interface NicSpec {
  readonly mac: string;
  readonly tap: string;
  /**
   * `standard`, the default: what QEMU makes of virtio-net-pci. `legacy`: virtio 0.9 alone, whose state QEMU
   * saves in a third of the time: a modern device saves 46 KiB for 1024 queues that are not there, about 0.7
   * ms in every pause.
   */
  readonly virtio?: "standard" | "legacy";
}

/** One disk of the guest. Both hosts have an image of the same format and size; where it lies may differ. */
export interface DiskSpec {
  /** A file or a block device. */
  readonly image: string;
  readonly format: "raw" | "qcow2";
  /** `pflash`: the store of UEFI variables, which the guest writes as flash memory (`VmSpec.uefi`). Raw. */
  readonly bus: "virtio-blk" | "virtio-scsi" | "pflash";
  /** As for a card. Of virtio-scsi disks, which share one controller, the first one's counts. */
  readonly virtio?: "standard" | "legacy";
  /**
   * `replicated`: each host has an image of its own, kept equal. `shared`: both see the same one, and nothing
   * is copied.
   */
  readonly storage: "replicated" | "shared";
  /**
   * `strict`: a flush of the guest's reaches the stable storage of the host it runs on; so does everything at
   * each checkpoint, inside the pause. `replicated`: while the VM is protected, a flush is safe once two
   * hosts hold it in memory; nothing waits for a disk.
   */
  readonly durability: "strict" | "replicated";
}

/**
 * How the guest starts: with a kernel that QEMU is given, or as firmware does, from the disks in their order.
 */
export type BootSpec =
  | { readonly kind: "kernel"; readonly kernel: string; readonly initrd: string; readonly append: string }
  | { readonly kind: "firmware" };

/** A CD drive. Without an image its tray is empty. */
export interface CdromSpec {
  readonly image?: string;
}

/**
 * Where the guest's serial port leads on this host: it is appended to a file, or QEMU listens at a unix
 * socket.
 */
export type EndSpec = { readonly file: string } | { readonly socket: string };

export interface VmSpec {
  readonly name: string;
  /** RFC 4122 text form. Names the VM on the replication link. */
  readonly uuid: string;
  /** A QEMU machine type or alias: `pc`, `q35`, `pc-i440fx-7.2`. */
  readonly machine: string;
  /** A named CPU model. `host` only where both hosts have the same processor. */
  readonly cpu: string;
  readonly vcpus: number;
  /** Their product is `vcpus`. Without it, QEMU's own choice. */
  readonly topology?: { readonly sockets: number; readonly cores: number; readonly threads: number };
  readonly memoryMiB: number;
  readonly nics: readonly NicSpec[];
  readonly disks: readonly DiskSpec[];
  readonly boot: BootSpec;
  /**
   * UEFI instead of a BIOS: its code, a file that is only read. Its variable store is the disk of bus
   * `pflash`, the last one.
   */
  readonly uefi?: { readonly code: string };
  readonly cdroms?: readonly CdromSpec[];
  /**
   * What of the guest leads out past the network, each host to a place of its own. All are unix sockets but
   * the serial port's file.
   */
  readonly serial?: EndSpec;
  readonly agent?: string;
  readonly vnc?: string;
  /** Further QEMU arguments, the same on both hosts. */
  readonly extraArgs: readonly string[];
}
