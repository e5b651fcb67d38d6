/**
 * A QEMU's disks, over its monitors: mirrored to us while the VM runs, read and written by us, and what was
 * written noted.
 */
export { addBitmap, removeBitmap, snapshotBitmap } from "./disk-bitmaps.ts";
export { exportDisk, removeExport, startExports, stopExports } from "./disk-exports.ts";
export { setFlushing } from "./disk-flushing.ts";
export { renewIntent } from "./disk-intent.ts";
export { type MirroredDisk, replicateDisk, stopReplicatingDisk } from "./disk-mirror.ts";
