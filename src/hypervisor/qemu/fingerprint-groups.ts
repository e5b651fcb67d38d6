/** What the keys of a fingerprint begin with that QEMU itself has told of. Behind it comes a name that is QEMU's. */
export const GROUPS = {
  cpuid: "CPUID ",
  device: "device ",
  drive: "drive ",
  ram: "RAM block ",
  rom: "firmware file ",
} as const;
