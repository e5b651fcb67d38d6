/**
 * `node src/guardian/main.ts CONFIG`: one guardian. It begins in the role that its configuration names, and
 * may change it.
 */
import { readdirSync, rmSync } from "node:fs";
import { setPriority } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { StateFile } from "../disk/state-file.ts";
import { guardianNice } from "../hypervisor/qemu/process.ts";
import { ConfigError, readConfig } from "./config/config.ts";
import type { Context } from "./context.ts";
import { ControlSocket } from "./control/socket.ts";
import { beTheOnlyGuardian, NotTheOnlyGuardian } from "./exclusive/only-guardian.ts";
import { HostSignals } from "./host-signals.ts";
import { LAST_LINES_MS, type Log, openLog } from "./log.ts";
import { LogSink } from "./log-sink.ts";
import { serve } from "./serve.ts";
import { deadSockets } from "./sweep-leftovers.ts";
import { DescriptorWatch } from "./watch/descriptor-watch.ts";
import { Stalls } from "./watch/stalls.ts";
import { TapWatch } from "./watch/tap-watch.ts";
import { WitnessWatch } from "./watch/witness-watch.ts";

// V8 throws away the code of what has not run for a while, and compiles it again when it is called: of a
// failover, while a guest waits.
setFlagsFromString("--no-flush-bytecode");

/**
 * What ends this guardian before it has a log, or tells why it ends. Like the log it is waited for by nobody.
 */
const errors = new LogSink(2, (lines, reason) => `${lines} lines were lost here: ${reason}\n`);

/**
 * Exit statuses: 1 the VM is gone unasked, 2 it could not be started, 3 another guardian has it or what it
 * needs, 64 wrong use.
 */
async function main(path: string | undefined): Promise<number> {
  if (path === undefined) {
    errors.write("usage: node src/guardian/main.ts CONFIG\n");
    return 64;
  }
  // What others may change is refused, so nothing of ours is made that way, whatever started this process.
  process.umask(process.umask() | 0o022);
  try {
    const config = await readConfig(path);
    // Before anything is touched, and before the witness is asked.
    const locks = await beTheOnlyGuardian(config, path);
    const log = openLog(config.vm.name);
    raisePriority(log);
    const signals = new HostSignals(log);
    const { vm, runDirectory, stateDirectory } = config;
    const control = new ControlSocket(join(runDirectory, "control.sock"), log.warn);
    const { witness: choice, timing } = config;
    const context: Context = {
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
      context,
    );
    const descriptors = new DescriptorWatch(context);
    context.witness.begin();
    taps.begin();
    descriptors.begin();
    try {
      const served = serve(context, signals);
      const ended = await Promise.race([served, signals.left]);
      if (ended !== undefined) return ended;
      // It was starting. Its QEMU dies with this process; memory that a standby was to have is not left
      // behind.
      served.catch(() => {});
      rmSync(join(config.imageDirectory, `${vm.name}.ram`), { force: true });
      return 0;
    } finally {
      descriptors.close();
      taps.close();
      context.witness.close();
      context.control.close();
      // QEMU was killed, and leaves its sockets.
      for (const path of deadSockets(runDirectory)) rmSync(path, { force: true });
      await locks.giveBack();
      await log.end();
    }
  } catch (error) {
    const known = error instanceof ConfigError || error instanceof Error;
    errors.write(`${known ? (error as Error).message : String(error)}\n`);
    return error instanceof NotTheOnlyGuardian ? 3 : 2;
  }
}

/**
 * On a busy host a guardian must still beat in time, so all its threads are raised: V8's own, for which the
 * main thread waits when memory is collected, and with them those that are started later. What it starts
 * (QEMU) goes back to the priority that we had.
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

const status = await main(process.argv[2]);
await errors.end(LAST_LINES_MS);
process.exit(status);
