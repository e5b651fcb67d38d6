/**
 * How a VM comes to be this host's, and its guardian the primary: it is started here, or runs here already.
 */
import type { Generation } from "../../core/words.ts";
import type { PrimaryConfig } from "../config/config.ts";
import type { Context, TakenOver } from "../context.ts";
import { OwnedDisks } from "../disks/owned-disks.ts";
import { prepareEnvironment, startQemu } from "../host-environment.ts";
import { PrimaryGuardian } from "./primary.ts";
import { RamRoom } from "./ram-room.ts";

/** Preflight, then the VM. Fails with one sentence a problem and nothing started. */
export async function startVm(
  context: Context<PrimaryConfig>,
  generation: Generation,
): Promise<PrimaryGuardian> {
  const { config, log, record } = context;
  const environment = await prepareEnvironment(config, log);
  // It was protected before this host went down, and nobody had said stop.
  const { session, wanted: wished = session !== undefined } = record.state ?? {};
  const wanted = config.protect === "at-start" || wished;
  await new OwnedDisks(context, environment).note(generation, wanted);
  const qemu = await startQemu(config, environment, { role: "primary", ramFile: config.lab.ramFile });
  const guardian = new PrimaryGuardian(context, { generation, environment, qemu, wanted });
  await guardian.open();
  log.info(`VM ${config.vm.name} runs (QEMU ${qemu.qmp.version}, ${environment.accelerator}), unprotected`);
  return guardian;
}

/** The VM runs here already, since this host was its backup. */
export async function adoptVm(
  context: Context<PrimaryConfig>,
  takenOver: TakenOver,
): Promise<PrimaryGuardian> {
  const { generation, environment, qemu, ramFile } = takenOver;
  const guardian = new PrimaryGuardian(context, { generation, environment, qemu, takenOver, wanted: true });
  const room = new RamRoom(context, ramFile);
  room.begin();
  void qemu.exited.then(() => room.close());
  await guardian.open();
  context.log.info(`this host is the primary of VM ${context.config.vm.name} now (generation ${generation})`);
  return guardian;
}
