/**
 * What a host that lost power may have lost: anything in the extents that its write-intent logs name. Here
 * such places are made to hold garbage, before the host returns. A resync must mend them all; and as nothing
 * else is touched, nothing else may need mending.
 */
import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Extent } from "../../src/disk/extents.ts";
import { readIntents } from "../../src/disk/intent-log.ts";
import type { DiskState } from "../../src/disk/state-file.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { HostName } from "../../src/lab/namespaces.ts";
import type { Dice } from "./dice.ts";

const run = promisify(execFile);
const BLOCK_BYTES = 4096;

/** A host's state file, as it lies on its disk. */
export async function stateOf(lab: Lab, host: HostName): Promise<DiskState> {
  return JSON.parse(
    await readFile(join(lab.disks.stateDirectory(host), `${lab.vm.name}.json`), "utf8"),
  ) as DiskState;
}

/**
 * What the dead host's logs name of a disk. @throws when there are none of the protection that its state file
 * names
 */
export async function namedExtents(lab: Lab, host: HostName, disk: number): Promise<Extent[]> {
  const { images, session } = await stateOf(lab, host);
  if (images !== "owner" || session === undefined)
    throw new Error(`host ${host} died as the VM's host, and its state file says "${images}" of ${session}`);
  const extents = await readIntents(lab.disks.stateDirectory(host), lab.vm.name, disk, session);
  if (extents === undefined)
    throw new Error(
      `host ${host} has no write-intent log of disk${disk} in session ${session}; there are ${await logs(lab, host)}`,
    );
  return extents;
}

/** For people. */
async function logs(lab: Lab, host: HostName): Promise<string> {
  const folder = lab.disks.stateDirectory(host);
  const names = await readdir(folder);
  return (
    await Promise.all(
      names.map(async (name) => {
        const bytes = await readFile(join(folder, name));
        return `${name} (${bytes.length} bytes: ${bytes.subarray(0, 200).toString("latin1").trimEnd()})`;
      }),
    )
  ).join(", ");
}

/** A qcow2 image must have kept its own structures whole. @throws with what qemu-img says if not */
export async function expectSound(lab: Lab, host: HostName, disk: number): Promise<void> {
  const { format } = lab.vm.disks[disk]!;
  if (format === "raw") return;
  // 3: there are clusters that nothing refers to, which does no harm.
  await run("qemu-img", ["check", "-f", format, lab.disks.image(host, disk)]).catch((error) => {
    if ((error as { code?: number }).code !== 3) throw error;
  });
}

/**
 * For people: what an image that a running QEMU has open holds at `offset`, and whether its structures are
 * whole.
 */
export async function whatIsThere(
  lab: Lab,
  { host, disk }: { readonly host: HostName; readonly disk: number },
  offset: number,
): Promise<string> {
  const image = lab.disks.image(host, disk);
  const { format } = lab.vm.disks[disk]!;
  const ask = async (program: string, ...words: string[]) => {
    const { stdout, stderr } = await run(program, words).catch(
      (error: { stdout?: string; stderr?: string }) => error,
    );
    return `${program} says:\n${stdout}${stderr}`;
  };
  const bytes = ["-r", "-U", "-f", format, "-c", `read -v ${offset} 64`, "-c", `map`];
  return [
    `disk${disk} of host ${host} at ${offset}: ${await ask("qemu-io", ...bytes, image)}`,
    format === "raw" ? "" : await ask("qemu-img", "check", "-U", "-f", format, image),
  ].join("\n");
}

/** Writes garbage to `places` blocks, at random in the extents, of the image of a host that is down. */
export async function garble(
  lab: Lab,
  { host, disk }: { readonly host: HostName; readonly disk: number },
  extents: readonly Extent[],
  { dice, places }: { readonly dice: Dice; readonly places: number },
): Promise<void> {
  if (extents.length === 0) return;
  const words = Array.from({ length: places }, () => {
    const { from, to } = dice.one(extents);
    const at = from + BLOCK_BYTES * dice.below(Math.floor((to - from) / BLOCK_BYTES));
    return ["-c", `write -P ${1 + dice.below(255)} ${at} ${BLOCK_BYTES}`];
  });
  const { format } = lab.vm.disks[disk]!;
  const { stdout } = await run("qemu-io", [
    "-f",
    format,
    ...words.flat(),
    "-c",
    "flush",
    lab.disks.image(host, disk),
  ]);
  const written = stdout.split("\n").filter((line) => line.startsWith("wrote")).length;
  if (written !== places) throw new Error(`qemu-io wrote ${written} places, not ${places}: ${stdout}`);
}
