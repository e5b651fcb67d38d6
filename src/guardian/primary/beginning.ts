/** How a VM comes to be this host's, and its guardian the primary: it is started here, or runs here already. */
import type { Generation } from "../../core/words.ts";
import type { PrimaryConfig } from "../config/config.ts";
import { OwnedDisks } from "../disks/owned-disks.ts";
import { RamRoom } from "../ram-room.ts";
import type { Post, TakenOver } from "../role.ts";
import { prepareGround, startQemu } from "../vm-process.ts";
import { PrimaryGuardian } from "./primary.ts";

/** Preflight, then the VM. Fails with one sentence a problem and nothing started. */
export async function startVm(post: Post<PrimaryConfig>, generation: Generation): Promise<PrimaryGuardian> {
  const { config, log, record } = post;
  const ground = await prepareGround(config, log);
  // It was protected before this host went down, and nobody had said stop.
  const { session, wanted: wished = session !== undefined } = record.state ?? {};
  const wanted = config.protect === "at-start" || wished;
  await new OwnedDisks(post, ground).note(generation, wanted);
  const qemu = await startQemu(config, ground, { role: "primary", ramFile: config.lab.ramFile });
  const guardian = new PrimaryGuardian(post, { generation, ground, qemu, wanted });
  await guardian.open();
  log.info(`VM ${config.vm.name} runs (QEMU ${qemu.qmp.version}, ${ground.accelerator}), unprotected`);
  return guardian;
}

/** The VM runs here already, since this host was its backup. */
export async function adoptVm(post: Post<PrimaryConfig>, takenOver: TakenOver): Promise<PrimaryGuardian> {
  const { generation, ground, qemu, ramFile } = takenOver;
  const guardian = new PrimaryGuardian(post, { generation, ground, qemu, takenOver, wanted: true });
  const room = new RamRoom(post, ramFile);
  room.begin();
  void qemu.exited.then(() => room.close());
  await guardian.open();
  post.log.info(`this host is the primary of VM ${post.config.vm.name} now (generation ${generation})`);
  return guardian;
}
