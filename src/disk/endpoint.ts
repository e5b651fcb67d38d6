/** The main thread's side of the disk thread (`endpoint-worker.ts`). */
import { Worker } from "node:worker_threads";
import type { EpochCell } from "../memory/epoch-cell.ts";
import { closeDescriptor, setSendBuffer, socketPair } from "../os/socket.ts";
import type { EndpointOrder, EndpointReport, EndpointWorkerData } from "./endpoint-orders.ts";
import type { WriteRing } from "./write-ring.ts";

/** So much of the guest's data QEMU can hand over without waiting for our thread to be scheduled. */
const SOCKET_BUFFER_BYTES = 4 << 20;

export interface EndpointOptions {
  readonly disks: readonly { readonly disk: number; readonly bytes: number }[];
  readonly ring: WriteRing;
  readonly epochCell: EpochCell;
  /** See `WriteRing.listen`. */
  readonly onWritten: () => void;
  /** The write-intent log at `path` names so much of its disk. */
  readonly onGrown: (path: string, markedBytes: number) => void;
  /** Writes may be missing from now on. */
  readonly onFailed: (reason: string) => void;
}

export class DiskEndpoint {
  /** QEMU's ends, by the disk's number. To be handed to QEMU; `stop` closes ours. */
  readonly descriptors: ReadonlyMap<number, number>;
  private readonly worker: Worker;
  private readonly stopped = Promise.withResolvers<void>();
  private readonly logging = new Map<string, PromiseWithResolvers<void>>();

  private constructor(worker: Worker, descriptors: ReadonlyMap<number, number>) {
    this.worker = worker;
    this.descriptors = descriptors;
  }

  /** Starts the thread. Rejects when it cannot serve. */
  static async start(options: EndpointOptions): Promise<DiskEndpoint> {
    const { ring, epochCell, onGrown, onWritten, onFailed } = options;
    const pairs = options.disks.map((one) => ({ ...one, pair: socketPair() }));
    for (const { pair } of pairs) setSendBuffer(pair[1], SOCKET_BUFFER_BYTES);
    const data: EndpointWorkerData = {
      disks: pairs.map(({ disk, bytes, pair }) => ({ disk, bytes, fd: pair[0] })),
      ring: ring.shared,
      epoch: epochCell.shared,
    };
    const worker = new Worker(new URL("./endpoint-worker.ts", import.meta.url), { workerData: data });
    const endpoint = new DiskEndpoint(worker, new Map(pairs.map(({ disk, pair }) => [disk, pair[1]])));
    const ready = Promise.withResolvers<void>();
    const failed = (reason: string) => {
      ring.break();
      const error = new Error(`the disk thread: ${reason}`);
      ready.reject(error);
      for (const one of endpoint.logging.values()) one.reject(error);
      onFailed(reason);
    };
    worker.on("message", (message: EndpointReport) => {
      if (message.kind === "written") onWritten();
      else if (message.kind === "ready") ready.resolve();
      else if (message.kind === "logging") endpoint.logging.get(message.path)?.resolve();
      else if (message.kind === "grown") onGrown(message.path, message.markedBytes);
      else if (message.kind === "failed") failed(message.error);
      else endpoint.stopped.resolve();
    });
    worker.on("error", (error) => failed(error.message));
    worker.on("exit", () => endpoint.stopped.resolve());
    try {
      await ready.promise;
    } catch (error) {
      endpoint.closeDescriptors();
      await worker.terminate();
      throw error;
    }
    return endpoint;
  }

  /**
   * Keeps a new write-intent log at `path`. Resolves with QEMU's end of the connection over which it is to
   * announce what it will change; the caller closes it.
   */
  async log(log: {
    readonly disk: number;
    readonly bytes: number;
    readonly path: string;
    readonly session: string;
  }): Promise<number> {
    const [ours, qemus] = socketPair();
    setSendBuffer(qemus, SOCKET_BUFFER_BYTES);
    const begun = Promise.withResolvers<void>();
    this.logging.set(log.path, begun);
    this.order({ kind: "log", fd: ours, ...log });
    try {
      await begun.promise;
      return qemus;
    } catch (error) {
      closeDescriptor(qemus);
      throw error;
    } finally {
      this.logging.delete(log.path);
    }
  }

  /** QEMU is about to let go of this log. */
  retire(path: string): void {
    this.order({ kind: "retire", path });
  }

  /** Closes our copies of QEMU's ends, once QEMU has its own. */
  closeDescriptors(): void {
    for (const fd of this.descriptors.values()) closeDescriptor(fd);
  }

  /** Ends the thread and its connections. QEMU must have let go of them, or will see an error. */
  async stop(): Promise<void> {
    this.order({ kind: "stop" });
    await this.stopped.promise;
    await this.worker.terminate();
  }

  private order(order: EndpointOrder): void {
    this.worker.postMessage(order);
  }
}
