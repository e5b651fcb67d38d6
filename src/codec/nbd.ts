/** Names and numbers of the NBD protocol. */

export type NbdErrno =
  | "EPERM"
  | "EIO"
  | "ENOMEM"
  | "EINVAL"
  | "ENOSPC"
  | "EOVERFLOW"
  | "ENOTSUP"
  | "ESHUTDOWN";

/** A run of bytes and what a metadata context says of it. base:allocation: 1 hole, 2 reads as zero. qemu:dirty-bitmap: 1 dirty. */
export interface NbdExtent {
  readonly length: number;
  readonly flags: number;
}
