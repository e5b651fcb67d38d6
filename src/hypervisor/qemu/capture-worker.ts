/**
 * The capture thread. It plays the COLO secondary towards QEMU (docs/specs/qemu-stream.md) in one blocking
 * loop that reads like the protocol: first pass, then request, reply, drain, cut, loaded, again and again.
 *
 * Inside the pause it only moves bytes from the socket into staging and notes where pages lie. Nobody else is
 * given work then: on a small host it would take the processor from QEMU.
 */
import { parentPort, workerData } from "node:worker_threads";
import { COLO, coloMessage, coloName, SHUT_RETURN_PATH } from "../../codec/colo.ts";
import { deviceStateLength, LONGEST_RECORD_BYTES, MigrationScanner } from "../../codec/migration-stream.ts";
import { PAGE_RAW, PAGE_ZERO } from "../../codec/replication.ts";
import { EpochCell } from "../../memory/epoch-cell.ts";
import { CHUNK_BYTES, Staging } from "../../memory/staging.ts";
import { reached } from "../../os/epoch-points.ts";
import { readable, receive, sendAll } from "../../os/socket.ts";
import { type CaptureReport, type CaptureWorkerData, ORDER, type PageBatch, WORD } from "./capture-orders.ts";

const {
  fd,
  words: sharedWords,
  epoch: sharedEpoch,
  staging: sharedStaging,
} = workerData as CaptureWorkerData;
const words = new Int32Array(sharedWords);
const epochCell = new EpochCell(sharedEpoch);
const staging = new Staging(sharedStaging);

/** Bytes asked of the socket at once. */
const READ_BYTES = 256 << 10;
/**
 * A chunk with so many entries is handed over though it has room: a zero page takes nine bytes here and much
 * longer to ship.
 */
const ENOUGH_ENTRIES = 4096;
const MOST_ENTRIES = ENOUGH_ENTRIES + Math.ceil((READ_BYTES + LONGEST_RECORD_BYTES) / 9);
const LONGEST_DEVICE_STATE = 64 << 20;

/**
 * The first pass ends with the VM paused until all of it is in staging, so what waits there for the link is a
 * pause. With little room, QEMU learns the link's true speed, too, and stops the VM only when little is left.
 */
const FIRST_PASS_CHUNKS = 8;

/**
 * So many full chunks are kept back until the pause is over. With all others at most one is open: so there is
 * always one to be had.
 */
const MOST_KEPT_BACK = Math.min(8, staging.chunkCount - 2);

class Stopped extends Error {}
class StreamEnded extends Error {
  constructor(where: string) {
    super(`QEMU closed the stream ${where}`);
  }
}

const quitting = () => Atomics.load(words, WORD.quit) === 1;

function report(message: CaptureReport, transfer: ArrayBuffer[] = []): void {
  parentPort!.postMessage(message, transfer);
}

/** Waits for the main thread's next order. Throws `Stopped` when it wants us to end instead. */
function nextOrder(): number {
  for (;;) {
    const seen = Atomics.load(words, WORD.bell);
    const order = Atomics.exchange(words, WORD.order, ORDER.none);
    if (order !== ORDER.none) return order;
    if (quitting()) throw new Stopped();
    Atomics.wait(words, WORD.bell, seen, 100);
  }
}

/**
 * Staging as a stream: bytes from QEMU land in the open chunk; full chunks are reported and a new one is
 * opened.
 */
class Intake {
  epoch = 0;
  pages = 0;
  readonly scanner = new MigrationScanner(this);
  private chunkIndex = -1;
  private chunk: Uint8Array = new Uint8Array(0);
  private filled = 0;
  private taken = 0;
  private entries = 0;
  private pausing = false;
  private keptBack: PageBatch[] = [];
  private readonly blocks = new Uint16Array(MOST_ENTRIES);
  private readonly encodings = new Uint8Array(MOST_ENTRIES);
  private readonly pageNumbers = new Uint32Array(MOST_ENTRIES);
  private readonly positions = new Uint32Array(MOST_ENTRIES);

  page(block: number, pageNumber: number, position: number): void {
    this.note(block, PAGE_RAW, pageNumber, position);
  }

  zeroPage(block: number, pageNumber: number): void {
    this.note(block, PAGE_ZERO, pageNumber, 0);
  }

  private note(block: number, encoding: number, pageNumber: number, position: number): void {
    const entry = this.entries++;
    this.blocks[entry] = block;
    this.encodings[entry] = encoding;
    this.pageNumbers[entry] = pageNumber;
    this.positions[entry] = position;
  }

  beginCheckpoint(epoch: number): void {
    this.epoch = epoch;
    this.pages = 0;
    this.pausing = true;
    this.scanner.beginCheckpoint();
  }

  /**
   * The pause is over, or somebody wants it longer: what was kept back is handed over, and what the open
   * chunk holds.
   */
  endCheckpoint(): void {
    this.pausing = false;
    this.reportPages();
    this.handOver();
  }

  /** Scans what is there; true once the scanner has come to `state`. */
  private scanTo(state: "devices" | "end"): boolean {
    this.taken = this.scanner.scan(this.chunk, this.taken, this.filled);
    return this.scanner.state === state;
  }

  /** Drains RAM sections until the scanner reaches `state`. */
  drainUntil(state: "devices" | "end", where: string): void {
    while (!this.scanTo(state)) {
      if (CHUNK_BYTES - this.filled < LONGEST_RECORD_BYTES || this.entries >= ENOUGH_ENTRIES) this.roll();
      this.read(where);
    }
  }

  /** Exactly `length` bytes that are not RAM records, copied out. */
  take(length: number, where: string): Uint8Array {
    const target = new Uint8Array(length);
    let done = 0;
    while (done < length) {
      if (this.taken === this.filled) {
        if (CHUNK_BYTES - this.filled < LONGEST_RECORD_BYTES) this.roll();
        this.read(where);
      }
      const count = Math.min(length - done, this.filled - this.taken);
      target.set(this.chunk.subarray(this.taken, this.taken + count), done);
      this.taken += count;
      done += count;
    }
    return target;
  }

  /** The device state that ends a first pass: it has no length, but QEMU is silent after its description. */
  takeDeviceStateOfFirstPass(): Uint8Array {
    const parts: Uint8Array[] = [];
    let length = 0;
    for (;;) {
      if (this.taken < this.filled) {
        parts.push(this.chunk.slice(this.taken, this.filled));
        length += this.filled - this.taken;
        this.taken = this.filled;
        if (length > LONGEST_DEVICE_STATE) throw new Error("the device state is longer than 64 MiB");
        const tail = Buffer.concat(parts);
        const end = deviceStateLength(tail);
        if (end >= 0 && !readable(fd, 2)) return Uint8Array.from(tail.subarray(0, end));
      }
      if (CHUNK_BYTES - this.filled < LONGEST_RECORD_BYTES) this.roll();
      this.read("in the device state of the first pass");
    }
  }

  takeMessage(where: string): number {
    const bytes = this.take(4, where);
    return new DataView(bytes.buffer).getUint32(0);
  }

  /** Reports the open chunk's pages and leaves it to be shipped. The bytes not taken move to a new chunk. */
  roll(): void {
    const rest = this.chunk.slice(this.taken, this.filled);
    this.reportPages();
    const index = staging.take(quitting, this.epoch === 0 ? FIRST_PASS_CHUNKS : staging.chunkCount);
    if (index < 0) throw new Stopped();
    this.chunkIndex = index;
    this.chunk = staging.chunk(index);
    this.chunk.set(rest, 0);
    this.taken = 0;
    this.filled = rest.length;
  }

  /** Hands over what the open chunk holds; the next byte from QEMU opens a new one. */
  reportPages(): void {
    if (this.chunkIndex < 0) return;
    if (this.entries === 0) {
      staging.give(this.chunkIndex);
    } else {
      const batch: PageBatch = {
        chunk: this.chunkIndex,
        count: this.entries,
        blockIds: this.blocks.slice(0, this.entries),
        encodings: this.encodings.slice(0, this.entries),
        pageNumbers: this.pageNumbers.slice(0, this.entries),
        positions: this.positions.slice(0, this.entries),
      };
      if (this.epoch === 0 && this.pages === 0)
        report({ kind: "layout", header: this.scanner.header, blocks: this.scanner.blocks });
      this.pages += this.entries;
      this.keptBack.push(batch);
      if (!this.pausing || this.keptBack.length > MOST_KEPT_BACK) this.handOver();
    }
    this.entries = 0;
    this.chunkIndex = -1;
    this.chunk = new Uint8Array(0);
    this.taken = 0;
    this.filled = 0;
  }

  /** Gives the open chunk back, and those that were kept; what they hold is dropped. */
  abandon(): void {
    if (this.chunkIndex >= 0) staging.give(this.chunkIndex);
    this.chunkIndex = -1;
    for (const { chunk } of this.keptBack.splice(0)) staging.give(chunk);
  }

  private handOver(): void {
    for (const batch of this.keptBack.splice(0)) {
      const columns = [batch.blockIds, batch.encodings, batch.pageNumbers, batch.positions];
      report(
        { kind: "pages", epoch: this.epoch, batch },
        columns.map((column) => column.buffer as ArrayBuffer),
      );
    }
  }

  private read(where: string): void {
    if (this.chunkIndex < 0) this.roll();
    const count = receive(fd, this.chunk.subarray(this.filled, this.filled + READ_BYTES));
    if (count === 0) throw new StreamEnded(where);
    this.filled += count;
  }
}

function expectMessage(intake: Intake, expected: number): void {
  const message = intake.takeMessage(`before ${coloName(expected)}`);
  if (message !== expected)
    throw new Error(`QEMU sent ${coloName(message)} where ${coloName(expected)} should be`);
}

function reportCaptured(intake: Intake, epoch: number, device: Uint8Array): void {
  intake.endCheckpoint();
  report({ kind: "captured", epoch, device, pages: intake.pages }, [device.buffer as ArrayBuffer]);
}

function firstPass(intake: Intake): void {
  intake.drainUntil("devices", "in the first pass");
  reportCaptured(intake, 0, intake.takeDeviceStateOfFirstPass());
}

function checkpoint(intake: Intake, epoch: number, hold: boolean): void {
  epochCell.end();
  sendAll(fd, coloMessage(COLO.REPLY));
  intake.beginCheckpoint(epoch);
  expectMessage(intake, COLO.VMSTATE_SEND);
  intake.drainUntil("end", "inside a checkpoint");
  expectMessage(intake, COLO.VMSTATE_SIZE);
  const size = new DataView(intake.take(8, "before the device state").buffer).getBigUint64(0);
  if (size > BigInt(LONGEST_DEVICE_STATE))
    throw new Error(`the device state is said to be ${size} bytes long`);
  const device = intake.take(Number(size), "in the device state");
  sendAll(fd, coloMessage(COLO.RECEIVED));
  reached("after-capture");
  // The cut: what is read from here on may come from the next epoch. The VM runs only after LOADED.
  epochCell.set(epoch + 1);
  reached("before-resume");
  if (hold) {
    reportCaptured(intake, epoch, device);
    if (nextOrder() !== ORDER.proceed) throw new Error("an order came while the VM was held");
    sendAll(fd, coloMessage(COLO.LOADED));
  } else {
    sendAll(fd, coloMessage(COLO.LOADED));
    reached("after-resume");
    reportCaptured(intake, epoch, device);
  }
}

function run(intake: Intake): void {
  firstPass(intake);
  if (nextOrder() !== ORDER.begin) throw new Error("an order came before the first epoch");
  epochCell.set(1);
  if (intake.scanner.returnPath) sendAll(fd, SHUT_RETURN_PATH);
  sendAll(fd, coloMessage(COLO.READY));
  for (let epoch = 1; ; epoch++) {
    expectMessage(intake, COLO.REQUEST);
    intake.reportPages();
    report({ kind: "requested" });
    const order = nextOrder();
    checkpoint(intake, epoch, order === ORDER.captureAndHold);
  }
}

const intake = new Intake();
try {
  run(intake);
} catch (error) {
  intake.abandon();
  if (error instanceof Stopped || quitting()) report({ kind: "ended" });
  else report({ kind: "ended", error: (error as Error).message });
}
