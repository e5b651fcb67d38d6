/** In place of `src/hypervisor/qemu/disks.ts`: what QEMU is told to do with disks. */
import type { SimQemu, SimQmp } from "../world/qemu.ts";

export async function startExports(qmp: SimQmp): Promise<void> {
  await qmp.execute("nbd-server-start");
}

export const stopExports = startExports;
export const exportDisk = startExports;
export const removeExport = startExports;

export async function setFlushing(qmp: SimQmp, { on }: { on: boolean }): Promise<void> {
  await qmp.qemu.command(() => qmp.qemu.setFlushing(on));
}

export async function renewIntent(qemu: SimQemu): Promise<void> {
  await qemu.command(() => qemu.changeLog());
}

export async function addBitmap(qmp: SimQmp, { name }: { name: string }): Promise<void> {
  await qmp.qemu.command(() => qmp.qemu.bitmaps.set(name, new Set()));
}

export async function removeBitmap(qmp: SimQmp, { name }: { name: string }): Promise<void> {
  await qmp.qemu.command(() => {
    qmp.qemu.bitmaps.delete(name);
    qmp.qemu.snapshots.delete(name);
  });
}

export async function snapshotBitmap(qmp: SimQmp, { from, to }: { from: string; to: string }): Promise<void> {
  const { qemu } = qmp;
  await qemu.command(() => {
    const blocks = qemu.bitmaps.get(from);
    if (blocks === undefined) throw new Error(`there is no bitmap ${from}`);
    qemu.snapshots.set(to, new Set(blocks));
  });
}

export async function replicateDisk(qemu: SimQemu): Promise<void> {
  await qemu.command(() => {
    qemu.mirror = qemu.endpoint;
  });
}

export async function stopReplicatingDisk(qemu: SimQemu): Promise<void> {
  await qemu.command(() => {
    qemu.mirror = undefined;
  });
}
