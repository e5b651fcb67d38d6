/**
 * A QEMU beside the standby, of the same VM, which has nothing to do with the outside: it lives in a network
 * namespace of its own, in which there are its taps and nothing else, and its disks are overlays that go with
 * it. The namespace has no name and goes with the process, too.
 *
 * Taps, and not some `-netdev` that leads nowhere: those (user, socket, hubport) know no virtio-net header,
 * and a guest that has agreed on checksum offload with a tap does not load on them.
 */
import type { VmSpec } from "../vm-spec.ts";
import { type ClonePlaces, qemuCommand } from "./command-line.ts";
import { QemuProcess } from "./process.ts";
import { prepareStandby } from "./standby.ts";
import type { Accelerator } from "./tcg-aids.ts";

export interface CloneLaunch {
  readonly accelerator: Accelerator;
  /** Holds a copy of the VM's RAM, or will before the clone runs. */
  readonly ramFile: string;
  /** For sockets, and QEMU's own messages. */
  readonly runDirectory: string;
  /** For what the clone writes to its disks. */
  readonly diskFolder: string;
  readonly places: ClonePlaces;
}

/** Starts it; it waits for its state. Fails with QEMU's own words, or those of `unshare` and `ip`. */
export async function startClone(spec: VmSpec, launch: CloneLaunch): Promise<QemuProcess> {
  const { accelerator, diskFolder, places, ramFile, runDirectory } = launch;
  const qemu = qemuCommand(spec, {
    role: "standby",
    accelerator,
    qmpSockets: QemuProcess.monitorPaths(runDirectory),
    ramFile,
    clone: places,
  });
  const clone = await QemuProcess.start({
    command: [...confined(spec, diskFolder), ...qemu],
    runDirectory,
    bindLifetimes: true,
  });
  try {
    await prepareStandby(clone.qmp);
    return clone;
  } catch (error) {
    clone.kill();
    throw error;
  }
}

/** The words in front of a command that keep it in, and behind everything else that wants the processor. */
export function confined(spec: Pick<VmSpec, "nics">, diskFolder: string): string[] {
  return ["env", `TMPDIR=${diskFolder}`, "nice", "-n", "19", ...cutOff(spec)];
}

/**
 * The words in front of a command that put it into a network of its own, with the VM's taps, which lead
 * nowhere.
 */
export function cutOff({ nics }: Pick<VmSpec, "nics">): string[] {
  const taps = nics.flatMap(({ tap }) => [
    `ip tuntap add dev '${tap}' mode tap vnet_hdr`,
    `ip link set dev '${tap}' up`,
  ]);
  const script = ["ip link set dev lo up", ...taps, 'exec "$@"'].join(" && ");
  return [...ownNetwork(), "--", "sh", "-c", script, "clone"];
}

/**
 * Who is not root makes a network only where he is root, which any user may be in a user namespace of his
 * own.
 */
function ownNetwork(): string[] {
  return process.geteuid!() === 0 ? ["unshare", "--net"] : ["unshare", "--user", "--map-root-user", "--net"];
}
