/** The primary's side of the link: one connection to the backup at a time, made when core asks for it, and told apart from its predecessors. */

import { randomUUID } from "node:crypto";
import {
  type DiskImage,
  type MessageOf,
  PROTOCOL_VERSION,
  type ReplicationMessage,
} from "../codec/replication.ts";
import { encodeInput } from "../codec/replication-encode.ts";
import { type FrameIds, vmIdBytes } from "../codec/replication-header.ts";
import type { PrimaryEvent } from "../core/primary-protocol.ts";
import type { Generation } from "../core/words.ts";
import type { Fingerprint } from "../hypervisor/qemu/command-line.ts";
import { connect, LinkError } from "../link/connect.ts";
import type { Connection } from "../link/connection.ts";
import type { InputFrame } from "../net/guest-input.ts";
import { Attention } from "./attention.ts";
import type { PrimaryConfig } from "./config.ts";
import type { ReplicatedDisk } from "./owned-disks.ts";

const MOST_WAITING_INPUT_BYTES = 8 << 20;

/** What the backup has to say about the disks. */
export type DiskMessage = MessageOf<"disk-applied"> | MessageOf<"disk-durable"> | MessageOf<"hashes">;

export interface PrimaryLinkOptions {
  readonly config: PrimaryConfig;
  readonly machine: Fingerprint;
  readonly disks: readonly ReplicatedDisk[];
  readonly generation: () => Generation;
  readonly feed: (event: PrimaryEvent) => void;
  readonly onDiskMessage: (message: DiskMessage) => void;
  /** The backup is out of reach: what was on its way to it need not be kept. Called before the event. */
  readonly onLost: () => void;
  /** Whether losing the backup now would change who runs the VM. */
  readonly urgent: () => boolean;
}

export class PrimaryLink {
  connection: Connection | undefined;
  /** Names the protection for which the link was last made. */
  session = "";
  /** What the backup's disk images were when it agreed. */
  images: readonly DiskImage[] = [];
  private readonly options: PrimaryLinkOptions;
  /** Counts tries: one that was given up must not be used when it succeeds after all. */
  private attempt = 0;
  private readonly attention: Attention;

  constructor(options: PrimaryLinkOptions) {
    this.options = options;
    this.attention = new Attention(options.config.timing.detectionMs, performance.now());
  }

  /** To be called several times in the detection time. */
  look(): void {
    this.attention.look(performance.now(), this.connection?.lastHeardMs);
  }

  /** What every frame of ours carries now. */
  get ids(): FrameIds {
    return { vmId: vmIdBytes(this.options.config.vm.uuid), generation: this.options.generation() };
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
      this.connection = connection;
      feed({ type: "link-up" });
    } catch (error) {
      if (attempt !== this.attempt) return;
      if (error instanceof LinkError && error.generation !== undefined)
        feed({ type: "takeover", generation: error.generation });
      else feed({ type: "link-lost", reason: (error as Error).message });
    }
  }

  /** A frame that has arrived for the VM, which is being handed over. Lost when too much waits already (I6). */
  sendInput({ frame, nic }: InputFrame): void {
    const { connection } = this;
    if (connection !== undefined && connection.bufferedBytes < MOST_WAITING_INPUT_BYTES)
      connection.send(encodeInput(this.ids, nic, frame));
  }

  close(): void {
    const { connection } = this;
    this.attempt++;
    this.connection = undefined;
    connection?.destroy("the primary has ended the session");
  }

  private async open(): Promise<Connection> {
    const { config, disks, machine, urgent } = this.options;
    const { timing, vm } = config;
    const { host, port } = config.replication.peer;
    const session = randomUUID();
    const { connection, welcome } = await connect({
      address: host,
      port,
      ids: this.ids,
      hello: {
        protocol: PROTOCOL_VERSION,
        host: config.host,
        machine,
        ramBytes: vm.memoryMiB * 2 ** 20,
        intervalMs: timing.intervalMs,
        session,
        disks: disks.map(({ disk, bytes }) => ({ id: disk, bytes })),
      },
      handlers: {
        onMessage: (message) => this.take(message),
        onClosed: ({ message }) => {
          if (this.connection === connection) this.lost(message);
        },
        onSilent: (silentMs) => this.lost(`nothing was heard from it for ${Math.round(silentMs)} ms`),
      },
      heartbeatMs: timing.heartbeatMs,
      detectionMs: timing.detectionMs,
      urgent,
    });
    this.session = session;
    this.images = welcome.disks;
    return connection;
  }

  private lost(reason: string): void {
    this.options.onLost();
    this.options.feed({ type: "link-lost", reason });
  }

  private take(message: ReplicationMessage): void {
    const { feed, onDiskMessage } = this.options;
    if (this.attention.heardLate(performance.now())) feed({ type: "heard-late" });
    switch (message.type) {
      case "ack":
        feed({ type: "acked", epoch: message.epoch });
        return;
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
        this.lost(`it cannot go on: ${message.message}`);
        return;
      }
      default:
        return;
    }
  }
}
