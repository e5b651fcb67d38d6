/**
 * The backup's disk images, and the note of what this host is to the VM: what they are worth, what is put
 * into them, and when it is safe. The standby QEMU has them open and exports them to us; the state file says
 * what they are, whatever happens to this host.
 */
import { join } from "node:path";
import { type DiskEntry, type DiskImage, type HashRange, MAX_SUSPECTS } from "../../codec/replication.ts";
import type { EpochId, Generation } from "../../core/words.ts";
import { DiskApplier } from "../../disk/applier.ts";
import { hashBlocks, zeroExtents } from "../../disk/block-hash.ts";
import { union } from "../../disk/extents.ts";
import type { ImageReader } from "../../disk/frozen-disk.ts";
import { readIntents, removeIntents } from "../../disk/intent-log.ts";
import { NbdClient } from "../../disk/nbd-client.ts";
import type { StateFile } from "../../disk/state-file.ts";
import {
  addBitmap,
  exportDisk,
  removeExport,
  startExports,
  stopExports,
} from "../../hypervisor/qemu/disks.ts";
import type { Qmp } from "../../hypervisor/qemu/qmp.ts";
import type { VmSpec } from "../../hypervisor/vm-spec.ts";
import { soloBitmap } from "./dirty-records.ts";
import { replicatedDisks } from "./owned-disks.ts";

/**
 * How often what was applied is put on stable storage: so much at most a quick resync brings over for
 * nothing.
 */
const DURABLE_EVERY_MS = 2_000;

export interface FollowedDisk {
  /** Its number in `vm.disks`. */
  readonly disk: number;
  /** Its image's path on this host. */
  readonly image: string;
  /** Of an image that is kept in clusters: their size. */
  readonly clusterBytes: number | undefined;
}

/** @param images by the disk's number */
export function followedDisks(
  vm: VmSpec,
  images: readonly { readonly clusterBytes?: number }[],
): FollowedDisk[] {
  return replicatedDisks(vm).map((disk) => {
    const { clusterBytes } = images[disk]!;
    return { disk, image: vm.disks[disk]!.image, clusterBytes };
  });
}

export interface BackupDisksOptions {
  readonly qmp: Qmp;
  readonly runDirectory: string;
  /** The replicated disks. */
  readonly disks: readonly FollowedDisk[];
  readonly record: StateFile;
  /** Where write-intent logs of this host may lie, from a time when the VM ran here, under the VM's name. */
  readonly log: { readonly folder: string; readonly vm: string };
  /** An image cannot be written any more. Once. */
  readonly onFailed: (reason: string) => void;
  /** Everything up to this checkpoint is on stable storage. */
  readonly onDurable: (epoch: EpochId) => void;
}

export class BackupDisks {
  /** Bytes of epoch 0 that were given to `applyNow` and are in the images. */
  appliedBytes = 0;
  private readonly options: BackupDisksOptions;
  private readonly clients: Map<number, NbdClient>;
  /** Disks whose connection to QEMU is over. */
  private readonly lost = new Set<number>();
  /** Of epoch 0, in order: what was given to `applyNow` and is not in the images. */
  private readonly early = new Set<FirstWrites>();
  private applier: DiskApplier;
  private session: { readonly id: string; readonly generation: Generation } | undefined;
  /** What the images are in this session; undefined while nothing of it has come. */
  private noted: Promise<void> | undefined;
  /** Of the session before: it may still be writing. */
  private before: DiskApplier;
  private durable: { readonly epoch: EpochId; readonly atMs: number } = { epoch: -1, atMs: 0 };
  private flushing = false;
  private failed = false;
  private released = false;
  /** The VM is this host's: that they are a replica must not be noted any more, whatever was under way. */
  private claimed = false;

  private constructor(options: BackupDisksOptions, clients: Map<number, NbdClient>) {
    this.options = options;
    this.clients = clients;
    this.applier = this.newApplier();
    this.before = this.applier;
    for (const [disk, client] of clients) this.watch(disk, client);
  }

  /**
   * Has the standby export its disks, and connects to them. Rejects when an image is in use, or cannot be
   * written.
   */
  static async open(options: BackupDisksOptions): Promise<BackupDisks> {
    const { qmp, disks, runDirectory } = options;
    if (disks.length > 0) await startExports(qmp, socketPath(runDirectory));
    const clients = new Map<number, NbdClient>();
    for (const { disk } of disks) {
      await exportDisk(qmp, { index: disk, writable: true });
      clients.set(disk, await connectTo(runDirectory, disk));
    }
    return new BackupDisks(options, clients);
  }

  /** What the images are, for a primary that wants to bring them up to date. */
  async images(): Promise<DiskImage[]> {
    const { log, record } = this.options;
    const { state } = record;
    return await Promise.all(
      [...this.clients].map(async ([id, client]) => {
        if (await isBlank(client)) return { id, state: "blank" };
        if (state?.session === undefined || state.images === "syncing") return { id, state: "unknown" };
        if (state.images === "replica" && state.durableEpoch !== undefined)
          return { id, state: "replica", session: state.session, durableEpoch: state.durableEpoch };
        if (state.images === "owner" && state.handedOver === true)
          return { id, state: "owner", session: state.session, suspects: [] };
        const intents =
          state.images === "owner" ? await readIntents(log.folder, log.vm, id, state.session) : undefined;
        if (intents === undefined) return { id, state: "unknown" };
        const suspects = union(intents, MAX_SUSPECTS).map(({ from, to }) => [from, to - from] as const);
        return { id, state: "owner", session: state.session, suspects };
      }),
    );
  }

  /**
   * A protection begins. Nothing is noted yet: whoever comes may be nobody, and the images are what they were
   * until his first pass is.
   */
  begin(session: string, generation: Generation): void {
    this.session = { id: session, generation };
    this.appliedBytes = 0;
    this.durable = { epoch: -1, atMs: performance.now() };
    const before = this.applier;
    // What failed may have been mended since, and everything is brought over anew. If not, it fails again.
    if (this.failed) this.applier = this.newApplier();
    this.failed = false;
    this.noted = undefined;
    this.before = before;
    this.early.clear();
  }

  /**
   * Its first pass has come: from here on the images are no more what they were. Noted before the first byte
   * is written.
   */
  firstPass(): Promise<void> {
    const { before, session } = this;
    if (this.noted !== undefined || session === undefined) return this.noted ?? Promise.resolve();
    this.noted = before.idle().then(() => this.noteSyncing(session.id, session.generation));
    this.noted.catch((error: Error) => this.fail(error));
    return this.noted;
  }

  /** Puts entries of epoch 0 in as they come. `then` is called when they are in the images. */
  applyNow(entries: readonly DiskEntry[], payloadBytes: number, then: () => void): void {
    const writes: FirstWrites = { entries, payloadBytes, then };
    this.early.add(writes);
    void this.apply(entries).then((done) => {
      // Given again meanwhile, it is not the first time's any more.
      if (!done || !this.early.delete(writes)) return;
      this.appliedBytes += payloadBytes;
      then();
    });
  }

  /**
   * The images did not take something, and nobody else has the VM: they may take it now. What is of epoch 0
   * is given to them once more; a checkpoint is for whoever gave it.
   */
  async again(): Promise<void> {
    if (!this.failed || this.released) return;
    await this.applier.idle();
    if (!(await settledWell(this.noted))) this.noted = undefined;
    for (const disk of this.lost) {
      const client = await connectTo(this.options.runDirectory, disk);
      this.lost.delete(disk);
      this.clients.set(disk, client);
      this.watch(disk, client);
    }
    if (this.released || !this.failed) return;
    this.failed = false;
    this.applier = this.newApplier();
    const early = [...this.early];
    this.early.clear();
    for (const { entries, payloadBytes, then } of early) this.applyNow(entries, payloadBytes, then);
  }

  /**
   * Puts the writes of a whole checkpoint in, behind all before it. False: they are not, and `onFailed` was
   * told or the session is over.
   */
  async apply(entries: readonly DiskEntry[]): Promise<boolean> {
    const { session } = this;
    const ours = () => session === this.session && !this.failed;
    try {
      await this.firstPass();
      if (!ours()) return false;
      await this.applier.apply(entries);
      return ours();
    } catch (error) {
      if (ours()) this.fail(error as Error);
      return false;
    }
  }

  /** To be called after each commit: flushes now and then, and notes how far that goes. */
  committed(epoch: EpochId): void {
    const first = this.durable.epoch < 0;
    const due = this.clients.size > 0 && performance.now() - this.durable.atMs > DURABLE_EVERY_MS;
    if (this.flushing || !(first || due)) return;
    this.flushing = true;
    this.makeDurable(epoch)
      .catch((error: Error) => this.fail(error))
      .finally(() => {
        this.flushing = false;
      });
  }

  async hashes({ disk, blockBytes, offset, count }: HashRange): Promise<Uint8Array> {
    const client = this.clients.get(disk)!;
    const to = Math.min(client.bytes, offset + blockBytes * count);
    return await hashBlocks(client, { from: offset, to }, blockBytes);
  }

  /** Puts what was applied where others who read the image see it; for looking at it. */
  async flush(): Promise<void> {
    await this.applier.flush();
  }

  /** The images, to be read beside what is applied to them. */
  get readers(): ReadonlyMap<number, ImageReader> {
    return this.clients;
  }

  /** From now on `keep` is waited for before anything changes; undefined: no more. */
  keepBeforeChange(keep: DiskApplier["beforeChange"]): void {
    this.applier.beforeChange = keep;
  }

  /**
   * Notes that the images are no replica any more: the VM writes to them, or is about to. Nor are they the
   * VM's before the primary that this host becomes has put them on stable storage (OwnedDisks.settle): what a
   * power failure leaves of them until then is a mixture, from which nobody must start (I2).
   */
  claim(generation: Generation): void {
    this.claimed = true;
    // Not waited for: "replica" is not started from, either.
    this.options.record
      .write({
        generation,
        images: "syncing",
        ...(this.session === undefined ? {} : { session: this.session.id }),
      })
      .catch(() => {});
  }

  /** Lets go of the images, so that the VM can have them. From here on QEMU notes what it changes. */
  async release(): Promise<void> {
    this.released = true;
    const { qmp } = this.options;
    if (this.clients.size === 0) return;
    await this.applier.close();
    await Promise.all(
      [...this.clients.keys()].map(async (disk) => {
        await removeExport(qmp, disk);
        await addBitmap(qmp, { index: disk, name: soloBitmap });
      }),
    );
    await stopExports(qmp);
  }

  /** The guardian ends, or QEMU has. */
  close(): void {
    this.released = true;
    for (const client of this.clients.values()) client.destroy("the guardian ends");
  }

  private watch(disk: number, client: NbdClient): void {
    void client.closed.then(({ message }) => {
      this.lost.add(disk);
      this.fail(new Error(`disk${disk}: ${message}`));
    });
  }

  private newApplier(): DiskApplier {
    const applied = this.options.disks.map(
      ({ disk, clusterBytes: grainBytes }) =>
        [disk, { client: this.clients.get(disk)!, grainBytes }] as const,
    );
    return new DiskApplier(new Map(applied));
  }

  private async noteSyncing(session: string, generation: Generation): Promise<void> {
    const { log, record } = this.options;
    await record.write({ generation, images: "syncing", session });
    for (const disk of this.clients.keys()) await removeIntents(log.folder, log.vm, disk);
  }

  private async makeDurable(epoch: EpochId): Promise<void> {
    const { session } = this;
    if (session === undefined) return;
    await this.applier.flush();
    // Of a session that is over it must not be noted any more: the next one may have begun to write, or the
    // VM.
    if (session !== this.session || this.claimed || this.released) return;
    await this.options.record.write({
      generation: session.generation,
      images: "replica",
      session: session.id,
      durableEpoch: epoch,
    });
    if (session !== this.session) return;
    this.durable = { epoch, atMs: performance.now() };
    if (this.clients.size > 0) this.options.onDurable(epoch);
  }

  private fail(error: Error): void {
    if (this.failed || this.released) return;
    this.failed = true;
    this.options.onFailed(this.explained(error.message));
  }

  /** What an endpoint says of a full image names neither the file nor a remedy. */
  private explained(message: string): string {
    const number = /\bdisk(\d+)\b.*(ENOSPC|no space)/i.exec(message)?.[1];
    const image = this.options.disks.find(({ disk }) => disk === Number(number))?.image;
    if (number === undefined || image === undefined) return message;
    return `${message}. Make room for ${image} on that host: it then goes on by itself`;
  }
}

interface FirstWrites {
  readonly entries: readonly DiskEntry[];
  readonly payloadBytes: number;
  readonly then: () => void;
}

function socketPath(runDirectory: string): string {
  return join(runDirectory, "standby-disks.sock");
}

function connectTo(runDirectory: string, disk: number): Promise<NbdClient> {
  const contexts = ["base:allocation"];
  return NbdClient.connect({ path: socketPath(runDirectory), exportName: `disk${disk}`, contexts });
}

async function settledWell(promise: Promise<void> | undefined): Promise<boolean> {
  return await Promise.resolve(promise).then(
    () => true,
    () => false,
  );
}

async function isBlank(client: NbdClient): Promise<boolean> {
  for await (const { zero } of zeroExtents(client, { from: 0, to: client.bytes })) if (!zero) return false;
  return true;
}
