/**
 * Whether flushes of a disk, the guest's and those that QEMU does at each checkpoint, reach the host's stable
 * storage.
 */
import { open } from "node:fs/promises";
import { blockNodes, diskNodes, fileNodeOptions } from "./disk-nodes.ts";
import type { Qmp } from "./qmp.ts";

/**
 * Switches flushing of a running VM's disk on or off. On is how it starts. Resolves when everything that was
 * written while it was off is on stable storage too: QEMU takes that for flushed, and would not make up for
 * it. Before it switches flushing off QEMU flushes, with the VM waiting.
 */
export async function setFlushing(
  qmp: Qmp,
  { index, on }: { readonly index: number; readonly on: boolean },
): Promise<void> {
  const name = diskNodes(index).file;
  const node = (await blockNodes(qmp)).get(name);
  if (node === undefined) throw new Error(`QEMU has no block node ${name}: this VM has no disk ${index}.`);
  const filename = pathOf(node.file);
  // What waits for the storage here is a thread of ours; what is left for QEMU to flush is little.
  if (!on) await flushToStorage(filename);
  const options = fileNodeOptions({ index, driver: node.drv, filename, noFlush: !on });
  await qmp.execute("blockdev-reopen", { options: [options] });
  if (on) await flushToStorage(filename);
}

/** A name that could be taken for something else QEMU writes as `json:{…}`. */
function pathOf(file: string): string {
  return file.startsWith("json:")
    ? (JSON.parse(file.slice("json:".length)) as { filename: string }).filename
    : file;
}

/** Any descriptor of the file will do: what is flushed is the file. */
async function flushToStorage(path: string): Promise<void> {
  const file = await open(path, "r");
  try {
    await file.datasync();
  } finally {
    await file.close();
  }
}
