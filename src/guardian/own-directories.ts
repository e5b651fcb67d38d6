/**
 * The directories of a guardian: what lies there decides what runs as its user, so nobody else may change it.
 */
import { error, type Finding, warning } from "../hypervisor/qemu/traps.ts";
import { whyUnsafe } from "../os/safe-path.ts";
import type { GuardianConfig } from "./config/config.ts";

/** Looks at all of them; touches nothing. */
export function directoryFindings(config: GuardianConfig): Finding[] {
  const { cacheDirectory, runDirectory, stateDirectory } = config;
  const must: readonly (readonly [field: string, path: string])[] = [
    ["runDirectory", runDirectory],
    ["stateDirectory", stateDirectory],
    ...(config.role === "backup" ? ([["imageDirectory", config.imageDirectory]] as const) : []),
  ];
  const found = must.flatMap(([field, path]) => {
    const why = whyUnsafe(path);
    return why === undefined ? [] : [error("unsafe-directory", `${field}: ${why}.`)];
  });
  // A checkout that root uses often belongs to somebody else, whose code root runs in any case.
  const cache = whyUnsafe(cacheDirectory);
  return cache === undefined ? found : [...found, warning("unsafe-directory", `cacheDirectory: ${cache}.`)];
}
