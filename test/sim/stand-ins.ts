/**
 * Which production module gives way to which stand-in, and which line to another one (planted bugs). Imported
 * before anything of src/ is.
 *
 * Production code is loaded as it is, file by file; only what would touch the real world is left out:
 * sockets, files, threads, QEMU. So what is simulated is not a copy of the guardian, which would grow old,
 * but the guardian.
 */
import { registerHooks } from "node:module";
import { fileURLToPath } from "node:url";

const SRC = new URL("../../src/", import.meta.url).href;
const HERE = new URL("./stand-ins/", import.meta.url).href;

/** Below src/ → below stand-ins/. */
const MODULES: Readonly<Record<string, string>> = {
  "disk/endpoint.ts": "endpoint.ts",
  "disk/intent-log.ts": "intent-log.ts",
  "disk/nbd-client.ts": "nbd-client.ts",
  "guardian/backup/checkpoint-proof.ts": "checkpoint-proof.ts",
  "guardian/control/socket.ts": "control.ts",
  "guardian/primary/statistics.ts": "primary-statistics.ts",
  "guardian/primary/ram-room.ts": "ram-room.ts",
  "guardian/watch/stalls.ts": "stalls.ts",
  "guardian/backup/test-failover.ts": "test-failover.ts",
  "guardian/host-environment.ts": "host-environment.ts",
  "hypervisor/qemu/capture.ts": "capture.ts",
  "hypervisor/qemu/disks.ts": "disks.ts",
  "hypervisor/qemu/image-locks.ts": "image-locks.ts",
  "hypervisor/qemu/live-changes.ts": "live-changes.ts",
  "hypervisor/qemu/live-preflight.ts": "preflight.ts",
  "hypervisor/qemu/preflight.ts": "preflight.ts",
  "hypervisor/qemu/standby.ts": "standby.ts",
  "hypervisor/qemu/sweep.ts": "sweep.ts",
  "hypervisor/qemu/tcg-aids.ts": "tcg-aids.ts",
  "memory/backup-images.ts": "backup-images.ts",
  "memory/staging.ts": "staging.ts",
  "net/filter-chain.ts": "filter-chain.ts",
  "net/guest-input.ts": "guest-input.ts",
  "net/standby-taps.ts": "standby-taps.ts",
  "os/monotonic.ts": "monotonic.ts",
  "os/socket.ts": "socket.ts",
  "witness/open-witness.ts": "open-witness.ts",
};

/** For importers below src/. */
const BUILT_IN: Readonly<Record<string, string>> = {
  "node:net": "net.ts",
  "node:fs/promises": "fs-promises.ts",
  "node:timers/promises": "timers-promises.ts",
};
/** The same, only for these: others need what the stand-in does not have. */
const BUILT_IN_FOR: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  "node:crypto": { "guardian/primary/link.ts": "crypto.ts" },
};
/** Their files are real: none is opened in a simulation. */
const REAL_FILES = new Set([
  "link/callers.ts",
  "guardian/config/config.ts",
  "guardian/config/fields.ts",
  "guardian/config/witness.ts",
]);

export interface Patch {
  /** Below src/. */
  readonly file: string;
  readonly find: string;
  readonly put: string;
}

/** @param patches lines to be changed as their files are loaded; one that is not found is an error */
export function install(patches: readonly Patch[] = []): void {
  registerHooks({
    resolve(specifier, context, next) {
      const importer = context.parentURL?.startsWith(SRC) ? context.parentURL.slice(SRC.length) : undefined;
      if (importer !== undefined && !REAL_FILES.has(importer)) {
        const standIn = BUILT_IN_FOR[specifier]?.[importer] ?? BUILT_IN[specifier];
        if (standIn !== undefined) return { url: HERE + standIn, shortCircuit: true };
      }
      const found = next(specifier, context);
      const standIn = found.url.startsWith(SRC) ? MODULES[found.url.slice(SRC.length)] : undefined;
      return standIn === undefined ? found : { ...found, url: HERE + standIn };
    },
    load(url, context, next) {
      const loaded = next(url, context);
      const ours = patches.filter(({ file }) => url === SRC + file);
      if (ours.length === 0) return loaded;
      let source = String(loaded.source);
      for (const { find, put } of ours) {
        if (source.split(find).length !== 2)
          throw new Error(`${fileURLToPath(url)} has not exactly one place that reads: ${find}`);
        source = source.replace(find, () => put);
      }
      return { ...loaded, source };
    },
  });
}
