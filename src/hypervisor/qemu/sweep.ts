/**
 * Whatever of a protection is still in QEMU is found there, by name, and taken out: after a protection, whose
 * parts have removed what they knew of, and before one. Nothing that somebody else has put in is touched.
 */
import { existsSync, rmSync } from "node:fs";
import { leaveColo } from "./colo-end.ts";
import { removeBitmap } from "./disk-bitmaps.ts";
import { removeExport, stopExports } from "./disk-exports.ts";
import { setFlushing } from "./disk-flushing.ts";
import { stopReplicatingDisk } from "./disk-mirror.ts";
import { type BlockNode, blockNodes } from "./disk-nodes.ts";
import type { Monitors } from "./disk-rescue.ts";
import { type Qmp, QmpError } from "./qmp.ts";

/** All of our names begin so, but for block nodes (disk-nodes.ts). */
const OURS = /^remus-/;
/** QEMU walks a card's filters from the last to the first: fewer frames are lost if they go in this order. */
const FILTER_ORDER = ["remus-sink-", "remus-capture-", "remus-inject-"];

export interface Leftovers {
  /** What was found, by name; empty is good. */
  readonly found: readonly string[];
}

/**
 * @param places `exportSocket`: where the disks are served from while they are brought into step; `snapshot`:
 * the name of the bitmap that is read then
 */
export async function sweep(
  qemu: Monitors,
  places: { readonly exportSocket: string; readonly snapshot: string },
): Promise<Leftovers> {
  const { qmp } = qemu;
  const found = [
    ...(await sweepMigration(qmp)),
    ...(await sweepExports(qmp, places.exportSocket)),
    ...(await sweepDisks(qemu, places.snapshot)),
    ...(await sweepFilters(qmp)),
  ];
  return { found };
}

/**
 * The capability is on from before the migration's start until after its end, and nobody else has a use for
 * it.
 */
async function sweepMigration(qmp: Qmp): Promise<string[]> {
  type Capability = { capability: string; state: boolean };
  await unlessRefused(qmp.execute("closefd", { fdname: "remus-capture" }));
  const capabilities = await qmp.execute<Capability[]>("query-migrate-capabilities");
  if (!capabilities.some(({ capability, state }) => capability === "x-colo" && state)) return [];
  await leaveColo(qmp);
  return ["migration"];
}

async function sweepExports(qmp: Qmp, socket: string): Promise<string[]> {
  const exports = await qmp.execute<{ id: string }[]>("query-block-exports");
  const found = exports.map(({ id }) => id).filter((id) => /^disk\d+$/.test(id));
  for (const id of found) await removeExport(qmp, Number(id.slice("disk".length)));
  // QEMU removes the socket with its server: the one at another place is somebody else's.
  if (existsSync(socket)) {
    await unlessRefused(stopExports(qmp));
    rmSync(socket, { force: true });
  }
  return found.map((id) => `export ${id}`);
}

async function sweepDisks(qemu: Monitors, snapshot: string): Promise<string[]> {
  const { qmp } = qemu;
  const nodes = await blockNodes(qmp);
  const jobs = await qmp.execute<{ id: string }[]>("query-jobs");
  const names = [...nodes.keys(), ...jobs.map(({ id }) => id)];
  const found = names.filter((name) => /^(remus-disk\d+|disk\d+-(top|remote|intent.*))$/.test(name));
  for (const index of new Set(found.map(diskOf))) await stopReplicatingDisk(qemu, index);
  for (const [name, node] of nodes) found.push(...(await sweepNode(qmp, name, node, snapshot)));
  return found;
}

async function sweepNode(qmp: Qmp, name: string, node: BlockNode, snapshot: string): Promise<string[]> {
  const found: string[] = [];
  if (/^disk\d+-file$/.test(name) && node.cache["no-flush"]) {
    await setFlushing(qmp, { index: diskOf(name), on: true });
    found.push(`${name} without flushing`);
  }
  if (/^disk\d+$/.test(name) && node["dirty-bitmaps"]?.some((bitmap) => bitmap.name === snapshot) === true) {
    await removeBitmap(qmp, { index: diskOf(name), name: snapshot });
    found.push(`bitmap ${snapshot} of ${name}`);
  }
  return found;
}

function diskOf(name: string): number {
  return Number(/disk(\d+)/.exec(name)![1]);
}

async function sweepFilters(qmp: Qmp): Promise<string[]> {
  const objects = (await qmp.execute<{ name: string }[]>("qom-list", { path: "/objects" }))
    .map(({ name }) => name)
    .filter((name) => FILTER_ORDER.some((prefix) => name.startsWith(prefix)));
  const place = (name: string) => FILTER_ORDER.findIndex((prefix) => name.startsWith(prefix));
  for (const id of objects.toSorted((a, b) => place(a) - place(b))) await qmp.execute("object-del", { id });
  const chardevs = (await qmp.execute<{ label: string }[]>("query-chardev"))
    .map(({ label }) => label)
    .filter((label) => OURS.test(label));
  for (const id of chardevs) await qmp.execute("chardev-remove", { id });
  return [...objects.map((id) => `filter ${id}`), ...chardevs.map((id) => `chardev ${id}`)];
}

/** QEMU refuses what is not there, and where there was nothing, nothing is left. */
async function unlessRefused(work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof QmpError)) throw error;
  }
}
