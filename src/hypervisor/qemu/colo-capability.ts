/**
 * The capability that makes a migration of QEMU's a COLO one. From 11.0 on it wants `return-path` beside it;
 * up to 10.2 that must be off. The version does not tell, for distributions carry patches over: QEMU is
 * asked, and its refusal names what it wants.
 */
import { type Qmp, QmpError } from "./qmp.ts";

/** Switches COLO on or off, with what goes with it. Fails with QEMU's own words when it cannot. */
export async function setColo(qmp: Pick<Qmp, "execute">, on: boolean): Promise<void> {
  const set = (returnPath: boolean) =>
    qmp.execute("migrate-set-capabilities", {
      capabilities: [
        { capability: "x-colo", state: on },
        { capability: "return-path", state: returnPath },
        { capability: "events", state: true },
      ],
    });
  try {
    await set(false);
  } catch (error) {
    if (!on || !(error instanceof QmpError && error.message.includes("'return-path'"))) throw error;
    await set(true);
  }
}
