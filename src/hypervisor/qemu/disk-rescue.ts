/**
 * What QEMU does with an endpoint of ours it does in its main loop: while the endpoint does not answer, the
 * VM stands still and the monitor is dumb. Cutting the connection is the way out: at our end, or out of band
 * from a second monitor.
 */
import { shutdownSocket } from "../../os/socket.ts";
import { diskNodes } from "./disk-nodes.ts";
import type { Qmp } from "./qmp.ts";

/** The two monitors of a QEMU; `watchdog` was opened with `oob`. */
export interface Monitors {
  readonly qmp: Qmp;
  readonly watchdog: Qmp;
}

/** QEMU has to get going again within this time once the connections are cut. */
const AFTER_CUT_MS = 5_000;

/**
 * Waits for `work`: commands that need the endpoints of disk `index`. After `withinMs` their connections are
 * cut, upon which QEMU goes on and `work` ends one way or the other. `fds` are connections that QEMU was only
 * now given: during the handshake it cannot cut them itself.
 */
export async function orCut<T>(
  watchdog: Qmp,
  endpoints: { readonly index: number; readonly fds: readonly number[] },
  withinMs: number,
  work: Promise<T>,
): Promise<T> {
  const stuck = Promise.withResolvers<never>();
  const cut = () => {
    for (const fd of endpoints.fds) shutdownSocket(fd);
    void yank(watchdog, endpoints.index);
  };
  const giveUp = () => stuck.reject(new Error("QEMU's main loop hangs, with no disk endpoint to blame"));
  const timers = [setTimeout(cut, withinMs), setTimeout(giveUp, withinMs + AFTER_CUT_MS)];
  try {
    return await Promise.race([work, stuck.promise]);
  } finally {
    for (const timer of timers) clearTimeout(timer);
  }
}

async function yank(watchdog: Qmp, index: number): Promise<void> {
  const { remote, intents } = diskNodes(index);
  for (const node of [remote, ...intents.map(({ target }) => target)]) {
    const instances = [{ type: "block-node", "node-name": node }];
    // One at a time: a node that is not there makes QEMU refuse the whole list. If none of it helps, the
    // caller's wait ends.
    await watchdog.executeOob("yank", { instances }).catch(() => {});
  }
}
