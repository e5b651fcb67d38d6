/**
 * Write-intent: an endpoint of ours is told of a write of the guest before the image is touched. It is told
 * once for each 64 KiB of the disk, by a write (or zero) of what was there before, and the guest's write
 * waits for its answer. After `renewIntent` it is told of everything anew.
 *
 * QEMU's filter `copy-before-write` does it, below the mirror: mirror, top, filter, format. If the endpoint
 * fails, the guest's writes go on without.
 */
import { addEndpointNode } from "./disk-endpoint-node.ts";
import { blockNodes, deviceOf, diskNodes } from "./disk-nodes.ts";
import { type Monitors, orCut } from "./disk-rescue.ts";
import type { Qmp } from "./qmp.ts";

const TIMEOUT_MS = 5_000;

/**
 * Has everything told anew, to the server behind `fd` (as in `MirroredDisk`), and lets go of the one before.
 * Everything written until then has been flushed, unless flushing is off: flush the image first, since QEMU
 * does it with the VM waiting.
 */
export async function renewIntent(monitors: Monitors, index: number, fd: number): Promise<void> {
  await orCut(monitors.watchdog, { index, fds: [fd] }, TIMEOUT_MS, addIntent(monitors.qmp, index, fd));
}

/**
 * Puts the top node in, between the device and the format node. Before the mirror starts: that then sits on
 * it.
 */
export async function addTop(qmp: Qmp, index: number): Promise<void> {
  const { top, format } = diskNodes(index);
  await qmp.execute("blockdev-add", topOptions(index, format));
  await qmp.execute("qom-set", { path: await deviceOf(qmp, index), property: "drive", value: top });
}

/**
 * Puts a fresh filter in below the top node, and takes the one before out. Or fails, and all is as it was.
 */
export async function addIntent(qmp: Qmp, index: number, fd: number): Promise<void> {
  const { format, intents } = diskNodes(index);
  const nodes = await blockNodes(qmp);
  const fresh = intents.find(({ filter }) => !nodes.has(filter))!;
  const old = intents.find(({ filter }) => nodes.has(filter));
  try {
    await addEndpointNode(qmp, { node: fresh.target, exportName: format, fd });
    await qmp.execute("blockdev-add", {
      driver: "copy-before-write",
      "node-name": fresh.filter,
      file: format,
      target: fresh.target,
      "on-cbw-error": "break-snapshot",
      discard: "unmap",
    });
    await qmp.execute("blockdev-reopen", { options: [topOptions(index, fresh.filter)] });
  } catch (error) {
    await removeIntent(qmp, fresh).catch(() => {});
    throw error;
  }
  if (old !== undefined) await removeIntent(qmp, old);
}

/** Takes top and filters out, whatever of them there is. After the mirror was taken from the top node. */
export async function removeTop(qmp: Qmp, index: number): Promise<void> {
  const { top, format, intents } = diskNodes(index);
  const there = (await blockNodes(qmp)).has(top);
  if (there) await qmp.execute("blockdev-reopen", { options: [topOptions(index, format)] });
  for (const intent of intents) await removeIntent(qmp, intent);
  if (!there) return;
  await qmp.execute("qom-set", { path: await deviceOf(qmp, index), property: "drive", value: format });
  await qmp.execute("blockdev-del", { "node-name": top });
}

async function removeIntent(qmp: Qmp, intent: { filter: string; target: string }): Promise<void> {
  const nodes = await blockNodes(qmp);
  for (const name of [intent.filter, intent.target])
    if (nodes.has(name)) await qmp.execute("blockdev-del", { "node-name": name });
}

function topOptions(index: number, below: string): Record<string, unknown> {
  return { driver: "raw", "node-name": diskNodes(index).top, file: below, discard: "unmap" };
}
