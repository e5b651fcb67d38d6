/** `node src/guardian/main.ts CONFIG`: one guardian, in the role that its configuration names. */
import { AssumeNoPartition } from "../witness/assume-no-partition.ts";
import { BackupGuardian } from "./backup.ts";
import { ConfigError, readConfig } from "./config.ts";
import { openLog } from "./log.ts";
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

process.exit(await main(process.argv[2]));
