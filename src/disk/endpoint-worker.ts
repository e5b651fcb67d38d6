/**
 * The disk thread: the NBD server to which QEMU mirrors what the guest writes. It puts each request into the
 * ring with the epoch it belongs to, and answers at once: until then the guest waits for its write, and QEMU,
 * at a checkpoint, with the VM stopped. Beside that it keeps the write-intent logs: there QEMU announces what
 * it is going to change, and waits until that is on stable storage.
 */
import { Socket } from "node:net";
import { parentPort, workerData } from "node:worker_threads";
import type { NbdExport } from "../codec/nbd-export.ts";
import type { NbdRequest } from "../codec/nbd-server.ts";
import { DISK_DISCARD, DISK_ZERO } from "../codec/replication.ts";
import { EpochCell } from "../memory/epoch-cell.ts";
import type { EndpointDisk, EndpointOrder, EndpointReport, EndpointWorkerData } from "./endpoint-orders.ts";
import { IntentLog } from "./intent-log.ts";
import { NbdAcceptor } from "./nbd-acceptor.ts";
import { WriteRing } from "./write-ring.ts";

const { disks, ring: sharedRing, epoch: sharedEpoch } = workerData as EndpointWorkerData;
const ring = new WriteRing(sharedRing);
const epochCell = new EpochCell(sharedEpoch);

const SECTOR_BYTES = 512;
/**
 * The rest is kept for what QEMU drains at a checkpoint: the VM is stopped then, and must not wait for the
 * link.
 */
const ORDINARY_BYTES = Math.floor((ring.capacityBytes * 2) / 3);
/** A log says how large it is each time it has grown by this much. */
const GROWTH_BYTES = 8 << 20;

let stopping = false;

function report(message: EndpointReport): void {
  parentPort!.postMessage(message);
}

function fail(error: string): void {
  if (stopping) return;
  ring.break();
  report({ kind: "failed", error });
}

/** Without flushes: QEMU would ask for one at each checkpoint, inside the pause. */
function exportOf(name: string, description: string, bytes: number): NbdExport {
  return {
    name,
    description,
    bytes,
    readOnly: false,
    noFlush: true,
    minimumBlock: SECTOR_BYTES,
    preferredBlock: 4096,
    maximumBlock: 32 << 20,
  };
}

function socketOf(fd: number): Socket {
  return new Socket({ fd, readable: true, writable: true });
}

/**
 * How much more may be taken now. What one epoch may write is limited, since the backup keeps all of it in
 * memory (I6).
 */
class Admission {
  private epoch = 0;
  private bytes = 0;

  room(): number {
    // An epoch that nobody will ever end may be as long as it likes.
    if (epochCell.ending || ring.abandoned) return ring.roomBytes;
    const epoch = epochCell.get();
    if (epoch !== this.epoch) {
      this.epoch = epoch;
      this.bytes = 0;
    }
    const ofEpoch = epoch === 0 ? ring.roomBytes : ring.capacityBytes - this.bytes;
    return Math.max(0, Math.min(ofEpoch, ring.roomBytes - (ring.capacityBytes - ORDINARY_BYTES)));
  }

  took(bytes: number): void {
    this.bytes += bytes;
  }
}

const admission = new Admission();

class MirroredDisk {
  private readonly disk: number;
  private readonly sector = new Uint8Array(SECTOR_BYTES);
  private readonly acceptor: NbdAcceptor;

  constructor({ disk, bytes, fd }: EndpointDisk) {
    this.disk = disk;
    this.acceptor = new NbdAcceptor(socketOf(fd), {
      exports: [exportOf(`disk${disk}`, `writes to disk${disk}, on their way to the backup`, bytes)],
      onRequest: (request) => this.request(request),
      onWriteData: (request, piece, offset) => this.data(request, piece, offset),
      // What was taken must be seen, or nothing would make room.
      onStall: () => this.publish(),
      onEnd: (message) => fail(`disk${disk}: ${message}`),
    });
  }

  close(): void {
    this.acceptor.close();
  }

  /**
   * Into the ring go whole sectors: the backup would have to read a part of one to write it. Where a piece
   * ends within a sector, its beginning waits here for the next piece.
   */
  private data({ offset }: NbdRequest, piece: Uint8Array, at: number): number {
    let done = 0;
    const begun = at % SECTOR_BYTES;
    if (begun > 0) {
      done = Math.min(piece.length, SECTOR_BYTES - begun);
      this.sector.set(piece.subarray(0, done), begun);
      if (begun + done < SECTOR_BYTES) return done;
      if (this.put(offset + at - begun, this.sector) === 0) return 0;
    }
    const rest = piece.subarray(done);
    const whole = rest.length - (rest.length % SECTOR_BYTES);
    const taken = this.put(offset + at + done, rest.subarray(0, whole));
    if (taken < whole) return done + taken;
    this.sector.set(rest.subarray(whole));
    return piece.length;
  }

  /** Returns how much of whole sectors was taken. */
  private put(offset: number, sectors: Uint8Array): number {
    const room = admission.room();
    // The tag: taken before the answer, so never too high. See EpochCell.
    const taken = ring.write(this.disk, offset, sectors, epochCell.get(), room - (room % SECTOR_BYTES));
    admission.took(taken);
    return taken;
  }

  private request(request: NbdRequest): boolean {
    const { kind, offset, length } = request;
    if (kind === "zero" || kind === "trim") {
      if (!ring.put(this.disk, kind === "zero" ? DISK_ZERO : DISK_DISCARD, offset, length, epochCell.get()))
        return false;
    } else if (kind !== "write" && kind !== "flush") {
      this.acceptor.session.answer(request, "EPERM", `disk${this.disk} can only be written here`);
      return true;
    }
    this.publish();
    this.acceptor.session.answer(request);
    return true;
  }

  private publish(): void {
    if (ring.publish()) report({ kind: "written" });
  }
}

/**
 * Where QEMU announces what the guest is about to change, with the data that is there still, of which nothing
 * is kept.
 */
class LoggedDisk {
  readonly log: IntentLog;
  retired = false;
  private readonly disk: number;
  private readonly acceptor: NbdAcceptor;
  private toldBytes = 0;

  constructor(log: IntentLog, { disk, bytes, fd }: EndpointDisk) {
    this.log = log;
    this.disk = disk;
    this.acceptor = new NbdAcceptor(socketOf(fd), {
      exports: [exportOf(`disk${disk}`, `what is about to change on disk${disk}`, bytes)],
      onRequest: (request) => this.request(request),
      onWriteData: (_request, piece) => piece.length,
      onEnd: (message) => this.ended(message),
    });
  }

  async close(): Promise<void> {
    this.retired = true;
    this.acceptor.close();
    await this.log.close();
  }

  private request(request: NbdRequest): true {
    const { kind, offset, length } = request;
    const { session } = this.acceptor;
    if (kind === "write" || kind === "zero")
      this.log.mark({ from: offset, to: offset + length }).then(
        () => {
          session.answer(request);
          this.tell();
        },
        (error: Error) => {
          fail(`the write-intent log ${this.log.path}: ${error.message}`);
          session.answer(request, "EIO", error.message);
        },
      );
    else if (kind === "read") session.answer(request, "EPERM", "there is nothing to read here");
    else session.answer(request);
    return true;
  }

  private tell(): void {
    const { markedBytes, path } = this.log;
    if (markedBytes - this.toldBytes < GROWTH_BYTES) return;
    this.toldBytes = markedBytes;
    report({ kind: "grown", path, markedBytes });
  }

  private ended(message: string): void {
    if (!this.retired) fail(`the write-intent log of disk${this.disk}: ${message}`);
    void this.log.close();
  }
}

const mirrored: MirroredDisk[] = [];
const logged: LoggedDisk[] = [];

async function take(order: EndpointOrder): Promise<void> {
  switch (order.kind) {
    case "log": {
      const { disk, bytes, path, session } = order;
      logged.push(new LoggedDisk(await IntentLog.create(path, { session, disk, diskBytes: bytes }), order));
      report({ kind: "logging", path });
      return;
    }
    case "retire":
      for (const one of logged) if (one.log.path === order.path) one.retired = true;
      return;
    case "stop":
      stopping = true;
      for (const disk of mirrored) disk.close();
      await Promise.all(logged.map((disk) => disk.close().catch(() => {})));
      report({ kind: "stopped" });
  }
}

try {
  for (const disk of disks) mirrored.push(new MirroredDisk(disk));
  parentPort!.on("message", (order: EndpointOrder) => {
    take(order).catch((error: Error) => fail(error.message));
  });
  report({ kind: "ready" });
} catch (error) {
  fail((error as Error).message);
}
