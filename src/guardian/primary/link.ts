/**
 * The primary's side of the link: one session with the backup at a time, made when core asks for it, and told
 * apart from its predecessors.
 */

import { randomUUID } from "node:crypto";
import {
  type DiskImage,
  type MessageOf,
  PROTOCOL_VERSION,
  type ReplicationMessage,
} from "../../codec/replication.ts";
import { encodeInput } from "../../codec/replication-encode.ts";
import { type FrameIds, vmIdBytes } from "../../codec/replication-header.ts";
import type { PrimaryEvent, PrimaryState } from "../../core/primary-protocol.ts";
import type { EpochId, Generation } from "../../core/words.ts";
import type { Fingerprint } from "../../hypervisor/qemu/fingerprint.ts";
import { connect } from "../../link/connect.ts";
import type { Connection } from "../../link/connection.ts";
import { LinkError } from "../../link/link-error.ts";
import type { Session } from "../../link/session.ts";
import type { InputFrame } from "../../net/guest-input.ts";
import { monotonicMs } from "../../os/monotonic.ts";
import type { PrimaryConfig } from "../config/config.ts";
import type { Context } from "../context.ts";
import type { PathStatus } from "../control/status.ts";
import type { ReplicatedDisk } from "../disks/owned-disks.ts";
import { graceForBackup } from "../grace.ts";
import { PathWatch } from "../watch/path-watch.ts";
import { StaleAckGuard } from "../watch/stale-ack-guard.ts";

const MOST_WAITING_INPUT_BYTES = 8 << 20;

/** What the backup has to say about the disks. */
export type DiskMessage = MessageOf<"disk-applied"> | MessageOf<"disk-durable"> | MessageOf<"hashes">;

export interface PrimaryLinkOptions {
  readonly context: Context<PrimaryConfig>;
  /** What the VM is now: asked for anew with each session. */
  readonly machine: () => Promise<Fingerprint>;
  readonly disks: readonly ReplicatedDisk[];
  readonly state: () => PrimaryState;
  readonly feed: (event: PrimaryEvent) => void;
  readonly onDiskMessage: (message: DiskMessage) => void;
  /** The backup is out of reach: what was on its way to it need not be kept. Called before the event. */
  readonly onLost: () => void;
}

export class PrimaryLink {
  connection: Session | undefined;
  /** Names the protection for which the link was last made. */
  session = "";
  /** What the backup's disk images were when it agreed. */
  images: readonly DiskImage[] = [];
  private readonly options: PrimaryLinkOptions;
  /** Counts tries: one that was given up must not be used when it succeeds after all. */
  private attempt = 0;
  private readonly staleAcks: StaleAckGuard;
  /** Read and not yet acted upon. */
  private acks: EpochId[] = [];
  private readonly watch: PathWatch;

  constructor(options: PrimaryLinkOptions) {
    this.options = options;
    const { config } = options.context;
    this.staleAcks = new StaleAckGuard(config.timing.detectionMs, monotonicMs());
    this.watch = new PathWatch(options.context, config.replication.peer);
  }

  /** To be called several times in the detection time. */
  look(): void {
    this.staleAcks.look(monotonicMs(), this.connection?.connections ?? []);
  }

  /** For `status`. */
  get paths(): PathStatus[] {
    return this.watch.summary(this.connection);
  }

  /** What every frame of ours carries now. */
  get ids(): FrameIds {
    return {
      vmId: vmIdBytes(this.options.context.config.vm.uuid),
      generation: this.options.state().generation,
    };
  }

  /** Feeds `link-up`, `link-lost` or `takeover`. */
  async connect(): Promise<void> {
    const { feed } = this.options;
    const attempt = ++this.attempt;
    try {
      const connection = await this.open();
      if (attempt !== this.attempt) {
        connection.destroy("protection was given up while the link was made");
        return;
      }
      if (connection.closed !== undefined) throw new Error(connection.closed.message);
      this.connection = connection;
      this.watch.heard(connection);
      feed({ type: "link-up" });
    } catch (error) {
      if (attempt !== this.attempt) return;
      if (error instanceof LinkError && error.generation !== undefined)
        feed({ type: "takeover", generation: error.generation });
      else feed({ type: "link-lost", reason: (error as Error).message });
    }
  }

  /**
   * A frame that has arrived for the VM, which is being handed over. Lost when too much waits already (I6).
   */
  sendInput({ frame, nic }: InputFrame): void {
    const { connection } = this;
    if (
      connection !== undefined &&
      connection.bufferedBytes + connection.keptBytes < MOST_WAITING_INPUT_BYTES
    )
      connection.send(encodeInput(this.ids, nic, frame));
  }

  close(): void {
    const { connection } = this;
    this.attempt++;
    this.acks = [];
    this.connection = undefined;
    connection?.destroy("the primary has ended the session");
  }

  private async open(): Promise<Session> {
    const { disks, machine, context, state } = this.options;
    const { config } = context;
    const { timing, vm } = config;
    const session = randomUUID();
    const ours = await machine();
    const { session: connection, welcome } = await connect({
      addresses: config.replication.peer,
      ...(config.replication.listen === undefined ? {} : { from: config.replication.listen }),
      ids: this.ids,
      hello: {
        protocol: PROTOCOL_VERSION,
        host: config.host,
        machine: ours,
        ramBytes: vm.memoryMiB * 2 ** 20,
        intervalMs: timing.intervalMs,
        session,
        disks: disks.map(({ disk, bytes }) => ({ id: disk, bytes })),
      },
      handlers: {
        onMessage: (message, by) => this.take(message, by),
        onClosed: ({ message }) => {
          if (this.connection === connection) this.lost(message);
        },
        onSilent: (silentMs) => this.lost(`nothing was heard from it for ${Math.round(silentMs)} ms`),
        onPath: (event) => this.watch.told(event),
      },
      heartbeatMs: timing.heartbeatMs,
      detectionMs: timing.detectionMs,
      patienceMs: () => graceForBackup(state(), timing.detectionMs),
    });
    this.session = session;
    this.images = welcome.disks;
    return connection;
  }

  /**
   * Acks count when everything that was read with them is known: no clock tells how long it has lain there.
   */
  private takeAck(epoch: EpochId): void {
    this.acks.push(epoch);
    if (this.acks.length === 1) queueMicrotask(() => this.feedAcks());
  }

  private feedAcks(): void {
    for (const epoch of this.acks.splice(0)) this.options.feed({ type: "acked", epoch });
  }

  /**
   * The backup has given that generation up to this host, and may not have come to claim it: who is called
   * with it asks the witness.
   */
  private makeGood(generation: Generation): void {
    const { log, witness } = this.options.context;
    if (generation <= this.options.state().generation) return;
    witness
      .ask(generation - 1)
      .catch((error: Error) => log.warn(`the claim of generation ${generation}: ${error.message}`));
  }

  private lost(reason: string): void {
    this.acks = [];
    this.options.onLost();
    this.options.feed({ type: "link-lost", reason });
  }

  private take(message: ReplicationMessage, by: Connection | undefined): void {
    const { feed, onDiskMessage } = this.options;
    if (this.staleAcks.heardLate(monotonicMs(), by)) feed({ type: "heard-late" });
    if (message.type === "ack") {
      this.takeAck(message.epoch);
      return;
    }
    // What says that the backup has given this host up stands before the acks that were read with it.
    if (message.type === "takeover" || message.type === "unable") this.acks = [];
    this.feedAcks();
    switch (message.type) {
      case "disk-applied":
      case "disk-durable":
      case "hashes":
        onDiskMessage(message);
        return;
      case "goodbye-ok":
        feed({ type: "goodbye-ok" });
        return;
      case "takeover":
        feed({ type: "takeover", generation: message.generation });
        return;
      case "handover-refused":
        if (message.stoodDown) this.makeGood(message.generation);
        feed({
          type: "handover-refused",
          reason: message.message,
          stoodDown: message.stoodDown,
          generation: message.generation,
        });
        return;
      case "unable": {
        const { connection } = this;
        this.connection = undefined;
        connection?.destroy("the backup cannot go on");
        this.options.onLost();
        feed({ type: "unable", reason: message.message });
        return;
      }
      default:
        return;
    }
  }
}
