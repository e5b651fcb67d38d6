/** The end of COLO: QEMU is brought back to where another capture can start, and its VM to where it was. */
import { setTimeout as pause } from "node:timers/promises";
import { setColo } from "./colo-capability.ts";
import { type Qmp, QmpError } from "./qmp.ts";

/** How long QEMU's own steps at the end of COLO may take before we call it hung. */
const END_TIMEOUT_MS = 10_000;
/** A migration whose stream is closed and that has not noticed it by then is told so. */
const CANCEL_AFTER_MS = 1_000;

/** Somebody else than a migration of ours keeps the VM stopped, and wants it so. */
const KEPT = ["paused", "watchdog", "debug", "guest-panicked"];
/** These are over by themselves, or nobody may end them but whoever mends the cause. */
const LEFT = ["running", "io-error", "internal-error", "shutdown", "suspended"];
const OVER = [undefined, "completed", "failed", "cancelled", "none"];

interface Status {
  readonly status: string;
}

/**
 * Ends what `QemuCapture` has begun, the stream being closed already, wherever it stands. QEMU notices the
 * closed stream, says so, and waits for the word that the other side is gone. Nothing begun: nothing done.
 *
 * COLO ends with the VM running, whatever it was before. One that its operator had paused is paused again at
 * once: that it has run for about a millisecond cannot be helped.
 * @param keepPaused it was paused by somebody else, though QEMU may not say so any more
 */
export async function leaveColo(qmp: Qmp, keepPaused = false): Promise<void> {
  const { status: before } = await qmp.execute<Status>("query-status");
  const kept = keepPaused || KEPT.includes(before);
  // COLO would let a sleeping guest run without waking it; it would wait for ever.
  if (before === "suspended") await qmp.execute("system_wakeup");
  const stopAgain = once(qmp, () => (kept ? qmp.execute("stop") : Promise.resolve()));
  try {
    await untilOver(qmp);
    await setColo(qmp, false);
    await stopAgain.done;
    const { status } = await qmp.execute<Status>("query-status");
    if (kept && status === "running") await qmp.execute("stop");
    else if (!kept && !LEFT.includes(status) && !KEPT.includes(status)) await qmp.execute("cont");
  } finally {
    stopAgain.end();
  }
}

/** Does it at the first RESUME. */
function once(qmp: Qmp, act: () => Promise<unknown>): { readonly done: Promise<unknown>; end(): void } {
  const at = { done: Promise.resolve() as Promise<unknown>, end: () => {} };
  at.end = qmp.on("RESUME", () => {
    at.end();
    at.done = act();
    at.done.catch(() => {});
  });
  return {
    get done() {
      return at.done;
    },
    end: () => at.end(),
  };
}

async function untilOver(qmp: Qmp): Promise<void> {
  const began = performance.now();
  let told = false;
  let cancelled = false;
  for (;;) {
    const { status } = await qmp.execute<{ status?: string }>("query-migrate");
    const yank = await qmp.execute<{ type: string }[]>("query-yank");
    if (OVER.includes(status) && !yank.some(({ type }) => type === "migration")) return;
    const sinceMs = performance.now() - began;
    if (status === "colo" && !told) told = await accepted(qmp, "x-colo-lost-heartbeat");
    // Not in COLO, where it breaks QEMU.
    if (["setup", "active"].includes(status ?? "") && sinceMs > CANCEL_AFTER_MS && !cancelled)
      cancelled = await accepted(qmp, "migrate_cancel");
    if (sinceMs > END_TIMEOUT_MS)
      throw new Error(`QEMU did not end its migration in ${END_TIMEOUT_MS} ms (${status})`);
    await pause(2);
  }
}

/** Whether QEMU took the order; if it did not, it has not come so far yet. */
async function accepted(qmp: Qmp, command: string): Promise<boolean> {
  try {
    await qmp.execute(command);
    return true;
  } catch (error) {
    if (error instanceof QmpError) return false;
    throw error;
  }
}
