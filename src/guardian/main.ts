/** `node src/guardian/main.ts CONFIG`: one guardian. It begins in the role that its configuration names, and may change it. */
import { readdirSync } from "node:fs";
import { setPriority } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { StateFile } from "../disk/state-file.ts";
import { guardianNice } from "../hypervisor/qemu/process.ts";
import { ConfigError, readConfig } from "./config.ts";
import { ControlSocket } from "./control.ts";
import { type Log, openLog } from "./log.ts";
import { beTheOnlyGuardian, NotTheOnlyGuardian } from "./only-guardian.ts";
import type { Post } from "./role.ts";
import { serve } from "./serve.ts";
import { Stalls } from "./stalls.ts";
import { TapWatch } from "./tap-watch.ts";
import { WitnessWatch } from "./witness-watch.ts";

// V8 throws away the code of what has not run for a while, and compiles it again when it is called: of a failover, while a guest waits.
setFlagsFromString("--no-flush-bytecode");

/** Exit statuses: 1 the VM is gone unasked, 2 it could not be started, 3 another guardian has it or what it needs, 64 wrong use. */
async function main(path: string | undefined): Promise<number> {
  if (path === undefined) {
    process.stderr.write("usage: node src/guardian/main.ts CONFIG\n");
    return 64;
  }
  try {
    const config = await readConfig(path);
    // Before anything is touched, and before the witness is asked.
    const locks = await beTheOnlyGuardian(config, path);
    const log = openLog(config.vm.name);
    raisePriority(log);
    // A failed side task must not take the VM down with the guardian.
    process.on("unhandledRejection", (reason) =>
      log.error(
        `internal error, please report it: ${reason instanceof Error ? reason.stack : String(reason)}`,
      ),
    );
    const { vm, runDirectory, stateDirectory } = config;
    const control = new ControlSocket(join(runDirectory, "control.sock"));
    const { witness: choice, timing } = config;
    const post: Post = {
      config,
      log,
      witness: new WitnessWatch({
        choice,
        vm: vm.uuid,
        host: config.host,
        log,
        control,
        everyMs: timing.witnessMs,
      }),
      control,
      stalls: new Stalls(),
      record: await StateFile.open(join(stateDirectory, `${vm.name}.json`), vm.uuid),
    };
    const taps = new TapWatch(
      vm.nics.map(({ tap }) => tap),
      post,
    );
    post.witness.begin();
    taps.begin();
    try {
      return await serve(post);
    } finally {
      taps.close();
      post.witness.close();
      post.control.close();
      await locks.giveBack();
    }
  } catch (error) {
    const known = error instanceof ConfigError || error instanceof Error;
    process.stderr.write(`${known ? (error as Error).message : String(error)}\n`);
    return error instanceof NotTheOnlyGuardian ? 3 : 2;
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
