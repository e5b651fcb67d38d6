/** The listener of a host that took the VM over: whoever comes as its primary is told that it is none any more (I3). */
import { vmIdBytes } from "../codec/replication-header.ts";
import type { Generation } from "../core/words.ts";
import { type Listener, listen } from "../link/listen.ts";
import type { PrimaryConfig } from "./config.ts";
import type { Post } from "./role.ts";

/** @param epoch the checkpoint from which the VM went on here. Resolves with undefined where this host has no address to be called at */
export async function openClosedDoor(
  { config, log }: Post<PrimaryConfig>,
  epoch: number,
  generation: () => Generation,
): Promise<Listener | undefined> {
  const { listen: address } = config.replication;
  if (address === undefined) return undefined;
  return await listen({
    address: address.host,
    port: address.port,
    vmId: vmIdBytes(config.vm.uuid),
    host: config.host,
    generation,
    onPrimary: (caller) => caller.tellTakeover(epoch),
    onTurnedAway: ({ message, peer }) => log.warn(`${peer}: ${message}`),
    heartbeatMs: config.timing.heartbeatMs,
    detectionMs: config.timing.detectionMs,
  });
}
