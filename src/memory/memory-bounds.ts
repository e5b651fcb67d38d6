/**
 * How much memory a backup may need for checkpoints that are not in its images yet (I6). Preflight reckons
 * with it, and nothing grows beyond it.
 *
 * A checkpoint is kept whole until it is acknowledged and committed, for it may be cut off (I2). A guest can
 * rewrite all of its memory in one epoch, and then the checkpoint has all of it. Before such a one lie at
 * most `stagingMiB`, for with that much not acknowledged the primary begins no further one (core/pacer.ts),
 * and what waits for its commit.
 */
export interface MemoryBounds {
  /** The most that one checkpoint may take. */
  readonly checkpointBytes: number;
  /** Of acknowledged checkpoints that wait for their commit: with more, nothing is acknowledged. */
  readonly commitBytes: number;
  /** Everything together. */
  readonly totalBytes: number;
}

const MIB = 2 ** 20;
/** Device state, video memory and ROMs; and what a page's place takes beside it. */
const BESIDE_RAM = { MiB: 128, share: 0.1 };

export function memoryBounds(
  { memoryMiB }: { readonly memoryMiB: number },
  limits: {
    readonly checkpointMiB?: number;
    readonly commitMiB: number;
    readonly diskMiB: number;
    readonly stagingMiB: number;
  },
): MemoryBounds {
  const { commitMiB, diskMiB, stagingMiB } = limits;
  const all = Math.ceil(memoryMiB * (1 + BESIDE_RAM.share)) + BESIDE_RAM.MiB;
  // What the guest writes to its disks in an epoch, and what of the next one's comes beside it.
  const disks = 4 * diskMiB;
  const checkpointMiB = limits.checkpointMiB ?? all + disks;
  return {
    checkpointBytes: checkpointMiB * MIB,
    commitBytes: commitMiB * MIB,
    // The last one before the primary waits, and the last one before nothing is acknowledged, may be as large
    // as any.
    totalBytes: (2 * checkpointMiB + stagingMiB + commitMiB) * MIB,
  };
}
