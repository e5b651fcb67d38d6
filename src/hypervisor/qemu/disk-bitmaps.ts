/**
 * Dirty bitmaps: QEMU's notes of what the guest has written to a disk. They live in QEMU's memory and end
 * with it.
 */
import { blockNodes, diskNodes } from "./disk-nodes.ts";
import type { Qmp } from "./qmp.ts";

/** Bytes of the disk that one bit stands for. 32 MiB of QEMU's memory for each TiB. */
const GRANULARITY = 4096;

/**
 * Begins to record what is written from now on. Works in any state of the VM, and on a standby that has not
 * run yet.
 */
export async function addBitmap(
  qmp: Qmp,
  bitmap: { readonly index: number; readonly name: string },
): Promise<void> {
  await qmp.execute("block-dirty-bitmap-add", { ...which(bitmap), granularity: GRANULARITY });
}

/** Ends a recording. None of that name: no error. Fails while it is exported. */
export async function removeBitmap(
  qmp: Qmp,
  bitmap: { readonly index: number; readonly name: string },
): Promise<void> {
  const nodes = await blockNodes(qmp);
  const there = nodes.get(diskNodes(bitmap.index).format)?.["dirty-bitmaps"] ?? [];
  if (there.some(({ name }) => name === bitmap.name))
    await qmp.execute("block-dirty-bitmap-remove", which(bitmap));
}

/**
 * Makes `to` a copy of `from` as it stands between two writes. The copy records nothing, so it can be
 * exported (QEMU exports no recording bitmap with a disk that is read-only); `from` goes on.
 */
export async function snapshotBitmap(
  qmp: Qmp,
  bitmap: { readonly index: number; readonly from: string; readonly to: string },
): Promise<void> {
  const node = diskNodes(bitmap.index).format;
  const copy = { node, name: bitmap.to, granularity: GRANULARITY, disabled: true };
  await qmp.execute("transaction", {
    actions: [
      { type: "block-dirty-bitmap-add", data: copy },
      { type: "block-dirty-bitmap-merge", data: { node, target: bitmap.to, bitmaps: [bitmap.from] } },
    ],
  });
}

function which(bitmap: { readonly index: number; readonly name: string }): { node: string; name: string } {
  return { node: diskNodes(bitmap.index).format, name: bitmap.name };
}
