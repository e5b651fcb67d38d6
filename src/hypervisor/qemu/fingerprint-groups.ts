/** What keys of a fingerprint begin with that are compared in a way of their own. A name comes behind it. */
export const GROUPS = {
  cpuid: "CPUID ",
  device: "device ",
  drive: "drive ",
  /** Which one it is: it must be another one on the other host. */
  image: "image of ",
  /** May be larger at the backup. */
  mtu: "MTU of the tap of ",
  ram: "RAM block ",
  rom: "firmware file ",
} as const;
