/** In place of `src/hypervisor/qemu/image-locks.ts`: nobody else has the images. */
export async function inUseByOthers(): Promise<string[]> {
  return [];
}

export async function writtenWithOthers(): Promise<readonly string[]> {
  return [];
}
