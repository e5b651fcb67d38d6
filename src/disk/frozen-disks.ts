/**
 * The disk images at one instant, for a clone of the VM: kept whole while commits go on, and served over NBD,
 * to be read only. It must never be in the way of a commit: what cannot be kept breaks the clone, not the
 * image.
 */
import { type FileHandle, open, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { NbdExport } from "../codec/nbd-export.ts";
import type { NbdRequest } from "../codec/nbd-server.ts";
import { FrozenDisk, type ImageReader } from "./frozen-disk.ts";
import { NbdAcceptor } from "./nbd-acceptor.ts";

/**
 * Reads under way for the clone; more wait, so that commits have the image and this process for themselves.
 */
const MOST_READS = 4;

export class FrozenDisks {
  readonly socketPath: string;
  private readonly disks: ReadonlyMap<number, FrozenDisk>;
  private readonly stores: readonly FileHandle[];
  private readonly server: Server;
  private readonly acceptors = new Set<NbdAcceptor>();
  private readonly dropped = Promise.withResolvers<void>();
  private readonly onBroken: (reason: string) => void;
  private reading = 0;
  private over = false;

  private constructor(parts: {
    disks: ReadonlyMap<number, FrozenDisk>;
    stores: readonly FileHandle[];
    socketPath: string;
    onBroken: (reason: string) => void;
  }) {
    this.disks = parts.disks;
    this.stores = parts.stores;
    this.socketPath = parts.socketPath;
    this.onBroken = parts.onBroken;
    this.server = createServer((socket) => this.serve(socket));
  }

  /**
   * Nothing is kept before `keep` is called for the first time.
   * @param folder for what is kept; the files have no names there
   * @param onBroken the disks cannot be read any more. Once
   */
  static async open(options: {
    readonly images: ReadonlyMap<number, ImageReader>;
    readonly folder: string;
    readonly socketPath: string;
    readonly onBroken: (reason: string) => void;
  }): Promise<FrozenDisks> {
    const { folder, images, onBroken, socketPath } = options;
    const disks = new Map<number, FrozenDisk>();
    const stores: FileHandle[] = [];
    try {
      for (const [number, image] of images) {
        const path = join(folder, `disk${number}.kept`);
        const store = await open(path, "wx+", 0o600);
        stores.push(store);
        await rm(path);
        disks.set(number, new FrozenDisk(image, store));
      }
      const frozen = new FrozenDisks({ disks, stores, socketPath, onBroken });
      await new Promise<void>((resolve, reject) => {
        frozen.server.once("error", reject);
        frozen.server.listen(socketPath, resolve);
      });
      return frozen;
    } catch (error) {
      for (const store of stores) await store.close();
      throw error;
    }
  }

  /** What the stores take. */
  get keptBytes(): number {
    return [...this.disks.values()].reduce((sum, { keptBytes }) => sum + keptBytes, 0);
  }

  /**
   * To be waited for before these bytes of a disk change. Never rejects, and does not wait any more once the
   * disks were dropped.
   */
  async keep(disk: number, offset: number, length: number): Promise<void> {
    const frozen = this.disks.get(disk);
    if (this.over || frozen === undefined) return;
    const kept = frozen.keep(offset, length).catch((error: Error) => this.fail(disk, error));
    await Promise.race([kept, this.dropped.promise]);
  }

  /** Serves and keeps nothing from now on, at once. Resolves when all is gone. */
  async drop(): Promise<void> {
    if (this.over) return;
    this.over = true;
    this.dropped.resolve();
    this.server.close();
    for (const acceptor of this.acceptors) acceptor.close();
    // Reads and writes of the stores that are under way are waited for.
    for (const store of this.stores) await store.close();
  }

  private fail(disk: number, error: Error): void {
    if (this.over) return;
    void this.drop();
    this.onBroken(`disk${disk} as it was cannot be kept: ${error.message}`);
  }

  private serve(socket: Socket): void {
    const exports: NbdExport[] = [...this.disks].map(([number, { bytes }]) => ({
      name: `disk${number}`,
      description: `disk${number} at a checkpoint`,
      bytes,
      readOnly: true,
      noFlush: true,
      minimumBlock: 512,
      preferredBlock: 4096,
      maximumBlock: 1 << 20,
    }));
    const acceptor: NbdAcceptor = new NbdAcceptor(socket, {
      exports,
      onRequest: (request) => this.request(acceptor, request),
      onWriteData: (_request, piece) => piece.length,
      onEnd: () => this.acceptors.delete(acceptor),
    });
    this.acceptors.add(acceptor);
  }

  private request(acceptor: NbdAcceptor, request: NbdRequest): boolean {
    const { session } = acceptor;
    if (request.kind !== "read") {
      session.answer(request, "EPERM", "this disk can only be read here");
      return true;
    }
    if (this.reading >= MOST_READS) return false;
    this.reading++;
    const disk = this.disks.get(Number(session.export!.name.slice("disk".length)))!;
    void disk
      .read(request.offset, request.length)
      .then(
        (data) => session.answerRead(request, data),
        (error: Error) => session.answer(request, "EIO", error.message),
      )
      .finally(() => {
        this.reading--;
      });
    return true;
  }
}
