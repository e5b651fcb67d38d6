/**
 * Whether a QEMU can do COLO at all: one without replication lists the capability all the same, and says no
 * only when it is set.
 */
import { type Qmp, QmpError } from "./qmp.ts";

/** Touches nothing that stays. Fails when QEMU does not answer. */
export async function hasColo(qmp: Qmp): Promise<boolean> {
  const commands = await qmp.execute<{ name: string }[]>("query-commands");
  if (!commands.some(({ name }) => name === "x-colo-lost-heartbeat")) return false;
  // From 8.1 on the command goes with the module. Before, only trying tells.
  const { major, minor } = versionOf(qmp);
  if (major > 8 || (major === 8 && minor >= 1)) return true;
  const capabilities = await qmp.execute<{ capability: string; state: boolean }[]>(
    "query-migrate-capabilities",
  );
  const colo = capabilities.find(({ capability }) => capability === "x-colo");
  if (colo === undefined || colo.state) return colo !== undefined;
  try {
    await set(qmp, true);
  } catch (error) {
    // "QEMU compiled without replication module", or, while a migration is under way, that it cannot be told
    // now.
    if (error instanceof QmpError) return !/replication/i.test(error.message);
    throw error;
  }
  await set(qmp, false);
  return true;
}

function set(qmp: Qmp, state: boolean): Promise<unknown> {
  return qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "x-colo", state }] });
}

function versionOf({ version }: Qmp): { major: number; minor: number } {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return { major, minor };
}
