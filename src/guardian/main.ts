/** `node src/guardian/main.ts CONFIG`: one guardian. It begins in the role that its configuration names, and may change it. */
import { readdirSync } from "node:fs";
import { setPriority } from "node:os";
import { join } from "node:path";
import { StateFile } from "../disk/state-file.ts";
import { guardianNice } from "../hypervisor/qemu/process.ts";
import { BackupGuardian } from "./backup.ts";
import { ConfigError, type GuardianConfig, otherRole, readConfig } from "./config.ts";
import { ControlSocket } from "./control.ts";
import { type Log, openLog } from "./log.ts";
import { PrimaryGuardian } from "./primary.ts";
import type { Post, RoleEnd } from "./role.ts";
import { Stalls } from "./stalls.ts";
import { WitnessWatch } from "./witness-watch.ts";

/** Exit statuses: 1 the VM is gone unasked, 2 it could not be started, 64 wrong use. */
async function main(path: string | undefined): Promise<number> {
  if (path === undefined) {
    process.stderr.write("usage: node src/guardian/main.ts CONFIG\n");
    return 64;
  }
  try {
    const config = await readConfig(path);
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
      witness: new WitnessWatch({ choice, vm: vm.uuid, log, control, everyMs: timing.witnessMs }),
      control,
      stalls: new Stalls(),
      record: await StateFile.open(join(stateDirectory, `${vm.name}.json`), vm.uuid),
    };
    post.witness.begin();
    try {
      return await serve(post);
    } finally {
      post.witness.close();
      post.control.close();
    }
  } catch (error) {
    const known = error instanceof ConfigError || error instanceof Error;
    process.stderr.write(`${known ? (error as Error).message : String(error)}\n`);
    return 2;
  }
}

/** One role after the other, until one ends with an exit status. */
async function serve(post: Post): Promise<number> {
  let role = await begin(post, undefined);
  for (;;) {
    const end = await role.done;
    if (end.kind === "exit") return end.status;
    const config = otherRole(role.config);
    if (config === undefined) return 0;
    post.log.info(`this guardian goes on as the ${config.role}`);
    role = await begin({ ...post, config }, end);
  }
}

async function begin(
  post: Post,
  before: RoleEnd | undefined,
): Promise<{ readonly done: Promise<RoleEnd>; readonly config: GuardianConfig }> {
  const { config } = post;
  if (config.role === "backup") {
    const generation = before?.kind === "backup" ? before.generation : undefined;
    const { done } = await BackupGuardian.start({ ...post, config }, generation);
    return { done, config };
  }
  const own = { ...post, config };
  const { done } =
    before?.kind === "primary"
      ? await PrimaryGuardian.adopt(own, before.takenOver)
      : await PrimaryGuardian.start(own);
  return { done, config };
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
