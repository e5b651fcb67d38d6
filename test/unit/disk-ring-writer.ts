/**
 * The other thread of disk-write-ring.test.ts: puts writes of many sizes into a ring, as fast as there is
 * room.
 */
import { isMainThread, parentPort, workerData } from "node:worker_threads";
import { DISK_ZERO } from "../../src/codec/replication.ts";
import { type SharedRing, WriteRing } from "../../src/disk/write-ring.ts";

export interface RingWriterData {
  readonly ring: SharedRing;
  readonly entries: number;
}

/** What everything that is ever written repeats; no multiple of any ring's size. */
const PATTERN = Buffer.alloc(
  100_003,
  Uint8Array.from({ length: 997 }, (_, i) => (i * i * 37 + i) >> 3),
);

/** What stands at a place of everything that is ever written. */
export function bytesAt(at: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  for (let done = 0; done < length; )
    done += PATTERN.copy(bytes, done, (at + done) % PATTERN.length, PATTERN.length);
  return bytes;
}

/** Bytes of write `n`; 0: a zero entry. */
export function sizeOf(n: number): number {
  if (n % 7 === 3) return 0;
  return n % 50 === 0 ? 300_032 : 512 * (1 + (n % 9));
}

async function write({ ring: shared, entries }: RingWriterData): Promise<void> {
  const ring = new WriteRing(shared);
  const tell = () => {
    if (ring.publish()) parentPort!.postMessage("written");
  };
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  let at = 0;
  for (let n = 0; n < entries; n++) {
    const size = sizeOf(n);
    while (size === 0 && !ring.put(0, DISK_ZERO, at, 512, 1)) await turn();
    const bytes = bytesAt(at, size);
    for (let done = 0; done < size; ) {
      done += ring.write(0, at + done, bytes.subarray(done), 1);
      if (done === size) break;
      // No room: what is in must be seen, or nobody makes any.
      tell();
      await turn();
    }
    at += size;
    tell();
    // Now and then the reader has to wait.
    if (n % 11 === 0) for (let turns = n % 4; turns > 0; turns--) await turn();
  }
}

if (!isMainThread) await write(workerData as RingWriterData);
