/** Stands in for `tcg-aids.ts`, without the aids that are named in the environment; see aids-hook.ts. */
import * as aids from "../../src/hypervisor/qemu/tcg-aids.ts";

export * from "../../src/hypervisor/qemu/tcg-aids.ts";

const without = (process.env.REMUS_WITHOUT_AIDS ?? "").split(",");

export const ramKiB: typeof aids.ramKiB = (memoryMiB, accelerator) =>
  without.includes("odd-ram") ? memoryMiB * 1024 : aids.ramKiB(memoryMiB, accelerator);

export const needsLibrary: typeof aids.needsLibrary = (version) =>
  !without.includes("library") && aids.needsLibrary(version);
