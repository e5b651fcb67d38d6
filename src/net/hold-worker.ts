/**
 * The thread that holds guest output. It does nothing slow: a reader that lags stalls QEMU's main loop.
 * Frames come over one socket per NIC and go back over another; in between they wait for their checkpoint.
 */
import { writeSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { parentPort, workerData } from "node:worker_threads";
import { EpochCell } from "../memory/epoch-cell.ts";
import { monotonicMs } from "../os/monotonic.ts";
import { FrameStream, framesOf, HeldOutput } from "./held-output.ts";
import { HOLD_WORD, type HoldOrder, type HoldReport, type HoldWorkerData } from "./hold-orders.ts";

const { nics, epoch: sharedEpoch, words: sharedWords, limitBytes } = workerData as HoldWorkerData;
const epochCell = new EpochCell(sharedEpoch);
const words = new BigInt64Array(sharedWords);

function report(message: HoldReport): void {
  parentPort!.postMessage(message);
}

/** The output of one NIC. */
class Nic {
  readonly held = new HeldOutput(limitBytes, Number.POSITIVE_INFINITY);
  private readonly stream = new FrameStream();
  private inject: Socket | undefined;
  private readonly index: number;

  constructor(index: number) {
    this.index = index;
  }

  async listen(capturePath: string, injectPath: string): Promise<void> {
    await Promise.all([
      acceptOne(capturePath, (socket) => this.readFrom(socket)),
      acceptOne(injectPath, (socket) => {
        socket.on("error", fail);
        socket.resume();
        this.inject = socket;
      }),
    ]);
  }

  private readFrom(capture: Socket): void {
    capture.on("error", fail);
    capture.on("data", (bytes) => {
      // Read first, then ask for the epoch: see EpochCell.
      const { whole, frames } = this.stream.push(bytes as Buffer);
      const epoch = epochCell.get();
      const free = this.held.take(epoch, whole, frames);
      if (free !== undefined) this.pass(free);
      publish();
    });
    capture.on("end", () => this.inject?.end(() => report({ kind: "drained", nic: this.index })));
  }

  pass(bytes: Uint8Array): void {
    this.inject?.write(bytes);
  }

  /** To QEMU's own tap, as QEMU would write it: a tap that is full drops a frame, as a network does. */
  letGo(upTo: number, tap: number): void {
    for (const piece of this.held.letGo(upTo))
      for (const frame of framesOf(piece))
        try {
          writeSync(tap, frame);
        } catch (error) {
          report({ kind: "lost", nic: this.index, error: (error as Error).message });
        }
  }

  release(upTo: number): void {
    const pieces = this.held.release(upTo);
    if (pieces.length === 0) return;
    this.inject?.cork();
    for (const piece of pieces) this.pass(piece);
    this.inject?.uncork();
  }
}

const outputs = nics.map((_, index) => new Nic(index));

function publish(): void {
  let heldBytes = 0;
  let dropped = 0;
  for (const { held } of outputs) {
    heldBytes += held.heldBytes;
    dropped += held.droppedFrames;
  }
  Atomics.store(words, HOLD_WORD.heldBytes, BigInt(heldBytes));
  Atomics.store(words, HOLD_WORD.droppedFrames, BigInt(dropped));
}

/** Something is wrong with QEMU's side. What is held stays held. */
function fail(error: Error): void {
  report({ kind: "failed", error: error.message });
}

function acceptOne(path: string, use: (socket: Socket) => void): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const server = createServer((socket) => {
    server.close();
    use(socket);
  });
  server.on("error", reject);
  server.listen(path, resolve);
  return promise;
}

parentPort!.on("message", (order: HoldOrder) => {
  if (order.kind !== "hold" && monotonicMs() > order.untilMs) {
    if (order.kind === "let-go") report({ kind: "gone" });
    return;
  }
  if (order.kind === "release") {
    for (const output of outputs) output.release(order.upTo);
  } else if (order.kind === "let-go") {
    for (const [index, output] of outputs.entries()) output.letGo(order.upTo, order.taps[index]!);
    report({ kind: "gone" });
  } else {
    for (const output of outputs) output.held.hold(order.upTo);
    report({ kind: "holding", upTo: order.upTo });
  }
  publish();
});

try {
  await Promise.all(nics.map((nic, index) => outputs[index]!.listen(nic.capturePath, nic.injectPath)));
  report({ kind: "listening" });
} catch (error) {
  fail(error as Error);
}
