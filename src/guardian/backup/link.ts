/**
 * The backup's side of the link: an open door, one primary at a time, and what is heard from it and said to
 * it.
 */

import type { ReplicationMessage } from "../../codec/replication.ts";
import { encodeHashes } from "../../codec/replication-disk.ts";
import { encodeHandoverRefused, type Frame } from "../../codec/replication-encode.ts";
import { type FrameIds, vmIdBytes } from "../../codec/replication-header.ts";
import type { BackupEvent, BackupState } from "../../core/backup.ts";
import type { EpochId } from "../../core/words.ts";
import type { Fingerprint } from "../../hypervisor/qemu/fingerprint.ts";
import { compareMachines } from "../../hypervisor/qemu/machine-mismatch.ts";
import { NO_SESSION, wrongPath } from "../../link/acceptor.ts";
import { type Caller, type Listener, listen, type Stray } from "../../link/listen.ts";
import type { Session } from "../../link/session.ts";
import { CheckpointTooLarge } from "../../memory/checkpoint-buffer.ts";
import type { InputFrame } from "../../net/guest-input.ts";
import type { BackupConfig } from "../config/config.ts";
import type { Context } from "../context.ts";
import type { PathStatus } from "../control/status.ts";
import type { BackupDisks } from "../disks/backup-disks.ts";
import { graceForPrimary } from "../grace.ts";
import { PathWatch } from "../watch/path-watch.ts";
import { refuseGeneration } from "./caller-generation.ts";
import type { CheckpointIntake } from "./checkpoint-intake.ts";

/** The primary has so long to read that the VM stays with it. */
const REFUSAL_HEARD_MS = 2_000;

export interface BackupLinkOptions {
  readonly context: Context<BackupConfig>;
  readonly machine: Fingerprint;
  readonly disks: BackupDisks;
  readonly intake: CheckpointIntake;
  readonly state: () => BackupState;
  readonly feed: (event: BackupEvent) => void;
  /** The checkpoint from which the VM went on here. */
  readonly tookOverAt: () => EpochId;
  /** What is heard does not count any more. */
  readonly deaf: () => boolean;
  readonly onHandover: () => void;
  /** A frame has arrived at the old host for the VM that it hands over. */
  readonly onInput: (frame: InputFrame) => void;
  readonly onLost: (reason: string) => void;
  /** The primary has been silent for half the detection time, or is heard again. */
  readonly onSuspicion: (suspected: boolean) => void;
}

export class BackupLink {
  /** The session of the primary that came last. */
  session: string | undefined;
  private readonly options: BackupLinkOptions;
  private listener: Listener | undefined;
  private connection: Session | undefined;
  private readonly watch: PathWatch;
  private greeting = false;
  private shutOut = false;
  /** The primary was told that this host stands down from a switchover. */
  private refusedForGood = false;

  constructor(options: BackupLinkOptions) {
    this.options = options;
    this.watch = new PathWatch(options.context, options.context.config.replication.listen);
  }

  /** For `status`. */
  get paths(): PathStatus[] {
    return this.watch.summary(this.connection);
  }

  /** Opens the door. */
  async open(): Promise<void> {
    const { onSuspicion, context, state } = this.options;
    const { replication, timing, vm } = context.config;
    this.listener = await listen({
      addresses: replication.listen,
      vmId: vmIdBytes(vm.uuid),
      ...(replication.peer === undefined ? {} : { peers: replication.peer }),
      host: context.config.host,
      generation: () => state().generation,
      onPrimary: (caller) => void this.shakeHands(caller),
      onStray: (stray) => this.sendOn(stray),
      onAddress: (event) => this.watch.told(event),
      onTurnedAway: ({ message, peer }) => context.log.warn(`${peer}: ${message}`),
      heartbeatMs: timing.heartbeatMs,
      detectionMs: timing.detectionMs,
      patienceMs: () => graceForPrimary(state()),
      onSuspicion,
    });
  }

  /** Takes no primary any more; the one that is here stays. */
  shut(): void {
    this.shutOut = true;
    this.listener?.close();
  }

  /** Ends the session. */
  close(): void {
    const { connection } = this;
    this.connection = undefined;
    connection?.destroy("the backup has ended the session");
  }

  send(encode: (ids: FrameIds) => Frame): void {
    this.connection?.send(encode(this.ids()));
  }

  /** A frame that must arrive, and then the end of the connection. */
  sayLast(encode: (ids: FrameIds) => Frame, why: string): void {
    const { connection } = this;
    this.connection = undefined;
    connection?.finish(encode(this.ids()), why);
  }

  /**
   * With `stoodDown` it is for the primary to close the link then: should the word be lost with it, the VM
   * would be, too.
   */
  refuseHandover(reason: string, stoodDown: boolean): void {
    this.refusedForGood = stoodDown;
    this.send((ids) => encodeHandoverRefused(ids, reason, stoodDown));
  }

  /**
   * Resolves when a primary that was refused for good has heard it, or has had its time. At once if there is
   * none.
   */
  async refusalHeard(): Promise<void> {
    const { connection } = this;
    if (!this.refusedForGood) return;
    for (const end = performance.now() + REFUSAL_HEARD_MS; performance.now() < end; ) {
      if (connection === undefined || connection.closed !== undefined) return;
      await new Promise((again) => setTimeout(again, 5));
    }
  }

  /** The VM is this host's. */
  private get tookOver(): boolean {
    const state = this.options.state();
    return state.phase === "running" || (state.phase === "recovering" && !state.planned);
  }

  /** A primary that wants to mend a path of a session which is over. */
  private sendOn(stray: Stray): void {
    if (this.tookOver) stray.tellTakeover(this.options.tookOverAt());
    else stray.refuse(NO_SESSION);
  }

  private async shakeHands(caller: Caller): Promise<void> {
    const { disks, tookOverAt } = this.options;
    if (this.tookOver) {
      caller.tellTakeover(tookOverAt());
      return;
    }
    const reason = this.whyNot(caller);
    if (reason !== undefined) {
      caller.refuse(reason);
      return;
    }
    this.greeting = true;
    try {
      const { context, state } = this.options;
      const wrong = await refuseGeneration(caller.generation, state().generation, context);
      if (wrong !== undefined) {
        caller.refuse(wrong);
        return;
      }
      const images = await disks.images();
      // Nothing of that is waited for by an operator who has the VM started here.
      if (this.shutOut) caller.refuse({ code: "wrong-state", message: "the VM is being started here" });
      else this.welcome(caller, images);
    } catch (error) {
      caller.refuse({ code: "disk", message: `the disk images here: ${(error as Error).message}` });
    } finally {
      this.greeting = false;
    }
  }

  private welcome(caller: Caller, images: Awaited<ReturnType<BackupDisks["images"]>>): void {
    const { disks, feed, intake, onLost } = this.options;
    const { session } = caller.hello;
    this.session = session;
    intake.reset();
    disks.begin(session, caller.generation);
    const connection = caller.welcome(
      {
        onMessage: (message) => this.take(message),
        onClosed: ({ message }) => {
          if (this.connection === connection) onLost(message);
        },
        onSilent: (silentMs) => onLost(`nothing was heard from it for ${Math.round(silentMs)} ms`),
        onPath: (event) => this.watch.told(event),
      },
      images,
    );
    this.connection = connection;
    this.watch.heard(connection);
    feed({ type: "session-opened", generation: caller.generation });
  }

  private whyNot({ address, hello }: Caller): { code: string; message: string } | undefined {
    const state = this.options.state();
    if (state.phase !== "waiting" || this.greeting)
      return { code: "wrong-state", message: `the backup is ${state.phase}` };
    // The witness tells them apart by their names: under one name, what is granted to one is granted to the
    // other (I3).
    const { host } = this.options.context.config;
    if (hello.host === host)
      return { code: "same-host", message: `both hosts call themselves ${host}; give them names with host:` };
    const { listen: own } = this.options.context.config.replication;
    if (hello.paths !== own.length)
      return {
        code: "other-paths",
        message: `replication.peer of ${hello.host} names ${hello.paths} addresses, and replication.listen of ${host} names ${own.length}; name the same paths on both hosts, in the same order`,
      };
    if (hello.path !== address) return wrongPath(host, hello.path, address);
    const { refusal, warning } = compareMachines(hello.machine, this.options.machine);
    if (refusal !== undefined) return { code: "other-machine", message: refusal };
    if (warning !== undefined) this.options.context.log.warn(warning);
    return undefined;
  }

  /** Throws ProtocolError on what does not belong here; the connection then closes. */
  private take(message: ReplicationMessage): void {
    const { deaf, feed, onHandover, onInput, state } = this.options;
    const { phase } = state();
    // Comes behind HANDOVER, after which nothing else of a primary counts.
    if (message.type === "input") {
      if (phase !== "filling") onInput(message);
      return;
    }
    if (deaf() || (phase !== "filling" && phase !== "armed")) return;
    switch (message.type) {
      case "goodbye":
        feed({ type: "goodbye" });
        return;
      case "handover":
        onHandover();
        feed({ type: "handover-asked", epoch: message.epoch });
        return;
      case "hash-ask":
        void this.answerHashes(message);
        return;
      default:
        this.takeIn(message);
    }
  }

  /**
   * What does not fit into this host's memory ends the protection, and nothing else: the primary is well, and
   * keeps the VM (I5, I6).
   */
  private takeIn(message: ReplicationMessage): void {
    const { feed, intake } = this.options;
    try {
      intake.take(message);
    } catch (error) {
      if (!(error instanceof CheckpointTooLarge)) throw error;
      feed({ type: "commit-failed", reason: error.message });
    }
  }

  private async answerHashes({ range }: Extract<ReplicationMessage, { type: "hash-ask" }>): Promise<void> {
    const { disks, feed, context } = this.options;
    try {
      const hashes = await disks.hashes(range);
      this.send((ids) => encodeHashes(ids, range, hashes));
    } catch (error) {
      context.log.error(`hashes of disk${range.disk}: ${(error as Error).message}`);
      feed({ type: "commit-failed", reason: (error as Error).message });
    }
  }

  private ids(): FrameIds {
    const { context, state } = this.options;
    return { vmId: vmIdBytes(context.config.vm.uuid), generation: state().generation };
  }
}
