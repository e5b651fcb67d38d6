/** A guardian's life: it finds out what it is, and goes from role to role until one ends it. */
import type { Generation } from "../core/words.ts";
import { BackupGuardian } from "./backup.ts";
import { type BackupConfig, type GuardianConfig, inRole } from "./config.ts";
import { adoptVm, startVm } from "./primary-beginning.ts";
import type { Post, RoleEnd } from "./role.ts";
import { decideRole } from "./starting.ts";

/** One role after the other, until one ends with an exit status. */
export async function serve(post: Post): Promise<number> {
  let role = await begin(post);
  for (;;) {
    const end = await role.done;
    if (end.kind === "exit") return end.status;
    const config = inRole(end.kind === "start" ? "primary" : end.kind, role.config);
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
  const { done } = await startVm({ ...post, config }, decided.generation);
  return { done, config };
}

async function change(post: Post, before: Exclude<RoleEnd, { kind: "exit" }>): Promise<Role> {
  const { config } = post;
  if (before.kind === "primary" && config.role === "primary") {
    const { done } = await adoptVm({ ...post, config }, before.takenOver);
    return { done, config };
  }
  if (before.kind === "start" && config.role === "primary") {
    const { done } = await startVm({ ...post, config }, before.generation);
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
