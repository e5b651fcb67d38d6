/**
 * What a guardian leaves that was killed, or whose host was stopped in the midst: RAM images, sockets, what a
 * test failover had. Nobody else can be using any of it.
 */
import { existsSync, lstatSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { GuardianConfig } from "./config/config.ts";
import type { Log } from "./log.ts";

type SweptConfig = Pick<GuardianConfig, "imageDirectory" | "runDirectory" | "stateDirectory" | "vm">;

/**
 * To be called while this guardian is the only one, and before it has a QEMU. What cannot be swept is told,
 * and is in nobody's way.
 */
export function sweepLeftovers(
  { imageDirectory, runDirectory, stateDirectory, vm }: SweptConfig,
  log: Log,
): void {
  const swept: string[] = [];
  const remove = (path: string): void => {
    if (!existsSync(path)) return;
    try {
      rmSync(path, { recursive: true });
      swept.push(path);
    } catch (error) {
      log.warn(`what an earlier guardian has left is still there: ${(error as Error).message}`);
    }
  };
  for (const path of [`${vm.name}.ram`, `${vm.name}.test.ram`]) remove(join(imageDirectory, path));
  for (const path of [join(runDirectory, "test"), join(stateDirectory, `${vm.name}.test`)]) remove(path);
  for (const path of deadSockets(runDirectory)) remove(path);
  if (swept.length > 0)
    log.info(`an earlier guardian has ended in the midst and left: ${swept.join(", ")}; gone now`);
}

/** Only names that this program gives: a socket of somebody else's may be in use. */
const OURS = /^(qmp|qmp-watchdog|(standby|settle|source)-disks|(capture|inject)-net\d+)\.sock$/;

/** QEMU's sockets, and ours. */
export function deadSockets(runDirectory: string): string[] {
  const all = existsSync(runDirectory) ? readdirSync(runDirectory) : [];
  return all
    .filter((name) => OURS.test(name))
    .map((name) => join(runDirectory, name))
    .filter((path) => lstatSync(path).isSocket());
}
