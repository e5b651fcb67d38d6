/**
 * QEMU's own NBD server: it lets our process read a running VM's disks, and write those of a standby. One
 * server per QEMU; each disk is an export under its node's name (`disk0`).
 */
import { diskNodes } from "./disk-nodes.ts";
import type { Qmp } from "./qmp.ts";
import { untilEvent } from "./qmp-wait.ts";

const DELETE_TIMEOUT_MS = 5_000;

/** Opens the server on a unix socket. Fails when it is open already. */
export async function startExports(qmp: Qmp, socketPath: string): Promise<void> {
  await qmp.execute("nbd-server-start", { addr: { type: "unix", data: { path: socketPath } } });
}

/**
 * Exports a disk. `writable` is for a standby: QEMU refuses it while a VM has the disk. `bitmap` may be read
 * as `qemu:dirty-bitmap:NAME`; it must not be recording (see `snapshotBitmap`), and cannot be removed until
 * the export is.
 */
export async function exportDisk(
  qmp: Qmp,
  disk: { readonly index: number; readonly writable: boolean; readonly bitmap?: string },
): Promise<void> {
  const name = diskNodes(disk.index).format;
  await qmp.execute("block-export-add", {
    type: "nbd",
    id: name,
    "node-name": name,
    name,
    writable: disk.writable,
    ...(disk.bitmap === undefined ? {} : { bitmaps: [disk.bitmap] }),
  });
}

/**
 * Takes an export away, with the connections to it. Nothing is written through it afterwards. No export: no
 * error.
 */
export async function removeExport(qmp: Qmp, index: number): Promise<void> {
  const id = diskNodes(index).format;
  const deleted = {
    event: "BLOCK_EXPORT_DELETED",
    isIt: (data: unknown) => (data as { id: string }).id === id,
    withinMs: DELETE_TIMEOUT_MS,
    late: `QEMU did not let go of the export ${id} within ${DELETE_TIMEOUT_MS} ms: a request on it hangs. Look at the host's storage.`,
  };
  await untilEvent(qmp, deleted, async () => {
    const exports = await qmp.execute<{ id: string }[]>("query-block-exports");
    if (!exports.some((one) => one.id === id)) return false;
    await qmp.execute("block-export-del", { id, mode: "hard" });
    return true;
  });
}

/** Closes the server, with all exports. Fails when it is not open. */
export async function stopExports(qmp: Qmp): Promise<void> {
  await qmp.execute("nbd-server-stop");
}
