/** `node src/guardian/main.ts CONFIG`: one guardian. It begins in the role that its configuration names, and may change it. */
import { readdirSync } from "node:fs";
import { setPriority } from "node:os";
import { join } from "node:path";
import type { Generation } from "../core/words.ts";
import { StateFile } from "../disk/state-file.ts";
import { guardianNice } from "../hypervisor/qemu/process.ts";
import { BackupGuardian } from "./backup.ts";
import { type BackupConfig, ConfigError, type GuardianConfig, inRole, readConfig } from "./config.ts";
import { ControlSocket } from "./control.ts";
import { type Log, openLog } from "./log.ts";
import { PrimaryGuardian } from "./primary.ts";
import type { Post, RoleEnd } from "./role.ts";
import { Stalls } from "./stalls.ts";
import { decideRole } from "./starting.ts";
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
  let role = await begin(post);
  for (;;) {
    const end = await role.done;
    if (end.kind === "exit") return end.status;
    const config = inRole(end.kind, role.config);
    if (config === undefined) return 0;
    post.log.info(`this guardian goes on as the ${config.role}`);
    role = await change({ ...post, config }, end);
  }
}

interface Role {
  readonly done: Promise<RoleEnd>;
  readonly config: GuardianConfig;
}

/** The first role. */
async function begin(post: Post): Promise<Role> {
  const decided = await decideRole(post);
  const config = inRole(decided.as, post.config);
  if (config === undefined) {
    const address = decided.as === "backup" ? "replication.listen" : "replication.peer";
    throw new Error(
      `this host is to be the ${decided.as}, because ${decided.why}; but its configuration has no ${address}`,
    );
  }
  if (config.role === "backup") return { ...(await backup({ ...post, config }, decided.generation)), config };
  const { done } = await PrimaryGuardian.start({ ...post, config }, decided.generation);
  return { done, config };
}

async function change(post: Post, before: Exclude<RoleEnd, { kind: "exit" }>): Promise<Role> {
  const { config } = post;
  if (before.kind === "primary" && config.role === "primary") {
    const { done } = await PrimaryGuardian.adopt({ ...post, config }, before.takenOver);
    return { done, config };
  }
  if (before.kind === "backup" && config.role === "backup")
    return { ...(await backup({ ...post, config }, before.generation)), config };
  throw new Error(`internal error: the ${config.role}'s role after an end that says ${before.kind}`);
}

async function backup(post: Post<BackupConfig>, generation: Generation): Promise<Pick<Role, "done">> {
  const { done } = await BackupGuardian.start(post, generation);
  return { done };
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
