/**
 * The listener of a host that took the VM over: an earlier owner that comes as its primary is told that it is
 * none any more (I3).
 */
import { vmIdBytes } from "../../codec/replication-header.ts";
import type { PrimaryState } from "../../core/primary-protocol.ts";
import { type Listener, listen, type Stray } from "../../link/listen.ts";
import type { PrimaryConfig } from "../config/config.ts";
import type { Context } from "../context.ts";
import { AddressWatch } from "../watch/address-watch.ts";

/**
 * Addresses may have gone with the host that failed (a cable between the two that has lost its carrier, say):
 * they are tried until they are back, and an alarm stands meanwhile.
 * @param epoch the checkpoint from which the VM went on here. Resolves with undefined where this host has no
 * address to be called at
 */
export async function openTakeoverNotice(
  { config, control, log }: Context<PrimaryConfig>,
  epoch: number,
  state: () => PrimaryState,
): Promise<Listener | undefined> {
  const { listen: addresses } = config.replication;
  if (addresses === undefined) return undefined;
  const watch = new AddressWatch({ control, log });
  const turnAway = (caller: Stray): void => {
    const { generation, phase } = state();
    if (caller.generation < generation || (caller.generation === generation && phase !== "superseded"))
      caller.tellTakeover(epoch);
    // It has the VM since, and this host, which was away, does not know yet: it must not be told to stop.
    else caller.refuse({ code: "wrong-state", message: "this host ran the VM before and is about to stop" });
  };
  return await listen({
    addresses,
    vmId: vmIdBytes(config.vm.uuid),
    peers: config.replication.peer,
    host: config.host,
    generation: () => state().generation,
    onPrimary: turnAway,
    // Its old session, of which it wants to mend a path, is long over.
    onStray: turnAway,
    onTurnedAway: ({ message, peer }) => log.warn(`${peer}: ${message}`),
    onAddress: watch.told,
    patient: true,
    heartbeatMs: config.timing.heartbeatMs,
    detectionMs: config.timing.detectionMs,
  });
}
