/**
 * A backup's qcow2 images are looked at before its standby has them: one that is damaged is mended, and then
 * nothing is known of what is in it.
 */
import { isSound, repair } from "../../hypervisor/qemu/disk-repair.ts";
import type { Context } from "../context.ts";
import { replicatedDisks } from "./owned-disks.ts";

/**
 * Nobody may have the images open. Resolves when they can be used. Rejects with a sentence when one cannot be
 * mended.
 */
export async function mendImages({ config, log, record }: Context): Promise<void> {
  const { disks } = config.vm;
  for (const index of replicatedDisks(config.vm)) {
    const { format, image } = disks[index]!;
    const name = `vm.disks[${index}].image ${image}`;
    if (format === "raw" || (await sound(image, (why) => log.warn(`${name} is not checked: ${why}`))))
      continue;
    log.warn(
      `${name} is damaged: its own structures do not fit together. They are mended, and all of it is compared anew.`,
    );
    // First, so that a record of changes is not believed if this host should fail in the midst of it.
    const { state } = record;
    if (state !== undefined) await record.write({ generation: state.generation, images: "syncing" });
    await repair(image).catch((error: Error) => {
      throw new Error(
        `${name} is damaged, and cannot be mended: ${error.message}. Put a blank image in its place.`,
      );
    });
  }
}

/** A host without qemu-img goes on, as it would have without this. */
async function sound(image: string, notChecked: (why: string) => void): Promise<boolean> {
  try {
    return await isSound(image);
  } catch (error) {
    notChecked((error as Error).message);
    return true;
  }
}
