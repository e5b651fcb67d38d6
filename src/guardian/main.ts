/** `node src/guardian/main.ts CONFIG`: one guardian, in the role that its configuration names. */
import { readdirSync } from "node:fs";
import { setPriority } from "node:os";
import { guardianNice } from "../hypervisor/qemu/process.ts";
import { AssumeNoPartition } from "../witness/assume-no-partition.ts";
import { BackupGuardian } from "./backup.ts";
import { ConfigError, readConfig } from "./config.ts";
import { type Log, openLog } from "./log.ts";
import { PrimaryGuardian } from "./primary.ts";

/** Exit statuses: 1 the VM is gone unasked, 2 it could not be started, 64 wrong use. */
async function main(path: string | undefined): Promise<number> {
  if (path === undefined) {
    process.stderr.write("usage: node src/guardian/main.ts CONFIG\n");
    return 64;
  }
  try {
    const config = await readConfig(path);
    const log = openLog(config.vm.name, config.role);
    raisePriority(log);
    // A failed side task must not take the VM down with the guardian.
    process.on("unhandledRejection", (reason) =>
      log.error(`internal error, please report it: ${String(reason)}`),
    );
    const arbiter = new AssumeNoPartition((text) => log.warn(text));
    const guardian =
      config.role === "primary"
        ? await PrimaryGuardian.start(config, log, arbiter)
        : await BackupGuardian.start(config, log, arbiter);
    return await guardian.done;
  } catch (error) {
    const known = error instanceof ConfigError || error instanceof Error;
    process.stderr.write(`${known ? (error as Error).message : String(error)}\n`);
    return 2;
  }
}

/**
 * On a busy host a guardian must still beat in time, so all its threads are raised: V8's own, for which the main thread waits when
 * memory is collected, and with them those that are started later. What it starts (QEMU) goes back to the priority that we had.
 */
function raisePriority(log: Log): void {
  try {
    for (const thread of readdirSync("/proc/self/task")) setPriority(Number(thread), guardianNice);
  } catch {
    log.warn(
      "this guardian runs at ordinary priority (no right to raise it); a busy host may be taken for a dead one",
    );
  }
}

process.exit(await main(process.argv[2]));
