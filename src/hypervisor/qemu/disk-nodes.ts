/**
 * What QEMU's block nodes of a disk are called, and which of them there are. docs/specs/qemu-disks.md has the
 * picture.
 */
import type { Qmp } from "./qmp.ts";

/** A disk's nodes. `format` and `file` are on the command line; the others come and go with a protection. */
export function diskNodes(index: number) {
  const format = `disk${index}`;
  return {
    format,
    file: `${format}-file`,
    /** The endpoint to which the guest's writes are mirrored. */
    remote: `${format}-remote`,
    /**
     * Above `format` while write-intent may be on: what is below it can be changed while the mirror is on.
     */
    top: `${format}-top`,
    /** Two, of which one is in use: a new one takes over before the old one goes. */
    intents: [0, 1].map((side) => ({
      filter: `${format}-intent${side}`,
      target: `${format}-intent${side}-to`,
    })),
    /** The device's `id=` on the command line. The variable store's has none (deviceOf). */
    device: `vdisk${index}`,
    /** The mirror job. */
    job: `remus-${format}`,
  };
}

/**
 * Where a disk's device is among QEMU's objects. The store of UEFI variables is the machine's second flash
 * memory, which has no id.
 */
export async function deviceOf(qmp: Qmp, index: number): Promise<string> {
  const { device } = diskNodes(index);
  const devices = await qmp.execute<{ name: string }[]>("qom-list", { path: "/machine/peripheral" });
  return devices.some(({ name }) => name === device)
    ? `/machine/peripheral/${device}`
    : "/machine/system.flash1";
}

export interface BlockNode {
  readonly "node-name": string;
  /** The driver. */
  readonly drv: string;
  readonly file: string;
  readonly cache: { readonly direct: boolean; readonly "no-flush": boolean };
  /** A block job's own bitmap has no name. */
  readonly "dirty-bitmaps"?: readonly { readonly name?: string }[];
}

/** All nodes, by name. */
export async function blockNodes(qmp: Qmp): Promise<ReadonlyMap<string, BlockNode>> {
  const nodes = await qmp.execute<BlockNode[]>("query-named-block-nodes", { flat: true });
  return new Map(nodes.map((node) => [node["node-name"], node]));
}

/**
 * The options of a disk's lower node, as on the command line: a node that is reopened must be given all of
 * them again.
 */
export function fileNodeOptions(file: {
  readonly index: number;
  readonly driver: string;
  readonly filename: string;
  readonly noFlush: boolean;
}): Record<string, unknown> {
  return {
    driver: file.driver,
    "node-name": diskNodes(file.index).file,
    filename: file.filename,
    discard: "unmap",
    cache: { direct: false, "no-flush": file.noFlush },
  };
}
