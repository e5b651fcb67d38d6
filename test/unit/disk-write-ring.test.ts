/**
 * The ring between the disk thread and the main thread: what is put in comes out, whole, in order, and only
 * once it was published; room is neither lost nor given twice; and a reader that listens is told.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type TestContext, test } from "node:test";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { DISK_DISCARD, DISK_WRITE, DISK_ZERO } from "../../src/codec/replication.ts";
import { type RingEntry, WriteRing } from "../../src/disk/write-ring.ts";
import { bytesAt, type RingWriterData, sizeOf } from "./disk-ring-writer.ts";

const KIB = 1024;
const LONGEST = 256 * KIB;
const SLOTS = 4096;

type Step =
  | { do: "write"; disk: number; offset: number; length: number; most: number | undefined }
  | { do: "zero"; disk: number; offset: number; length: number }
  | { do: "publish" }
  | { do: "free"; count: number }
  | { do: "epoch" };

/** Few places, so that one write often goes on where another ended. */
const place = fc.record({ disk: fc.integer({ min: 0, max: 1 }), offset: fc.integer({ min: 0, max: 3 }) });
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    {
      weight: 6,
      arbitrary: fc
        .tuple(
          place,
          fc.oneof(fc.integer({ min: 1, max: 700 }), fc.integer({ min: 1, max: 300 * KIB })),
          fc.option(fc.integer({ min: 0, max: 1000 }), { nil: undefined }),
        )
        .map(([where, length, most]) => ({ do: "write" as const, ...where, length, most })),
    },
    { weight: 1, arbitrary: place.map((where) => ({ do: "zero" as const, ...where, length: 4096 })) },
    { weight: 3, arbitrary: fc.constant({ do: "publish" as const }) },
    {
      weight: 4,
      arbitrary: fc.integer({ min: 1, max: 4 }).map((count) => ({ do: "free" as const, count })),
    },
    { weight: 1, arbitrary: fc.constant({ do: "epoch" as const }) },
  ),
  { minLength: 1, maxLength: 80 },
);

interface Entry extends Omit<RingEntry, "data"> {
  readonly data: Uint8Array;
}

/**
 * Entries with their data copied, neighbours joined that could have been one: how a write was cut does not
 * matter.
 */
function joined(entries: readonly Entry[]): object[] {
  const all: {
    disk: number;
    kind: number;
    epoch: number;
    offset: number;
    parts: Uint8Array[];
    end: number;
  }[] = [];
  for (const { disk, kind, epoch, offset, length, data } of entries) {
    const last = all.at(-1);
    const goesOn =
      kind === DISK_WRITE &&
      last?.kind === DISK_WRITE &&
      last.disk === disk &&
      last.epoch === epoch &&
      last.end === offset;
    if (goesOn) {
      last.parts.push(data);
      last.end += length;
    } else all.push({ disk, kind, epoch, offset, parts: [data], end: offset + length });
  }
  return all.map(({ parts, ...rest }) => ({ ...rest, data: Buffer.concat(parts).toString("base64") }));
}

/** Walks a ring and its model through the steps, and looks after each at what can be seen from outside. */
class Walk {
  readonly ring: WriteRing;
  private readonly put: Entry[] = [];
  private readonly taken: Entry[] = [];
  private epoch = 1;
  private putBytes = 0;
  private publishedBytes = 0;
  private freedBytes = 0;
  /** Where the next write to a disk goes on. */
  private readonly ends = [0, 0];

  constructor(bytes: number) {
    this.ring = WriteRing.ofSize(bytes);
  }

  step(step: Step): void {
    switch (step.do) {
      case "write":
        this.write(step);
        break;
      case "zero": {
        const { disk, length } = step;
        const offset = this.ends[disk]! + step.offset * 512;
        assert.ok(this.ring.put(disk, DISK_ZERO, offset, length, this.epoch));
        const entry = { disk, kind: DISK_ZERO, offset, length, epoch: this.epoch } as const;
        this.put.push({ ...entry, data: new Uint8Array(0) });
        break;
      }
      case "publish":
        this.ring.publish();
        this.publishedBytes = this.putBytes;
        break;
      case "free":
        this.free(step.count);
        break;
      case "epoch":
        this.epoch++;
    }
    this.look();
  }

  end(): void {
    this.step({ do: "publish" });
    this.free(Number.POSITIVE_INFINITY);
    assert.deepEqual(joined(this.taken), joined(this.put));
    assert.equal(this.ring.roomBytes, this.ring.capacityBytes);
    assert.equal(this.ring.freed, this.ring.published);
  }

  /** `offset` 0: where the last write to this disk ended. */
  private write({ disk, offset: gap, length, most }: Step & { do: "write" }): void {
    const { ring, epoch } = this;
    const offset = this.ends[disk]! + gap * 512;
    const piece = bytesAt(this.putBytes, length);
    const expected = Math.min(length, ring.roomBytes, most ?? length);
    const taken = ring.write(disk, offset, piece, epoch, ...(most === undefined ? [] : [most]));
    assert.equal(taken, expected, "as much as there is room for");
    // The caller's memory is the caller's again.
    const data = Buffer.from(piece.subarray(0, taken));
    piece.fill(0xee);
    this.putBytes += taken;
    this.ends[disk] = offset + taken;
    if (taken > 0) this.put.push({ disk, kind: DISK_WRITE, offset, length: taken, epoch, data });
  }

  private free(count: number): void {
    let taken = 0;
    for (; taken < count; taken++) {
      const entry = this.ring.peek(taken);
      if (entry === undefined) break;
      const data = Buffer.from(entry.data ?? []);
      this.freedBytes += data.length;
      this.taken.push({ ...entry, data });
    }
    this.ring.free(taken);
  }

  private look(): void {
    const { ring } = this;
    assert.equal(ring.roomBytes, ring.capacityBytes - (this.putBytes - this.freedBytes));
    let bytes = 0;
    const count = ring.published - ring.freed;
    for (let ahead = 0; ahead < count; ahead++) {
      const { kind, length, data } = ring.peek(ahead)!;
      assert.ok(length >= 1 && length <= LONGEST, `an entry of ${length} bytes`);
      assert.equal(data?.length, kind === DISK_WRITE ? length : undefined);
      bytes += data?.length ?? 0;
    }
    assert.equal(ring.peek(count), undefined);
    assert.equal(this.freedBytes + bytes, this.publishedBytes, "what was published is seen, and no more");
  }
}

test("whatever is written, published and freed in whatever order: it comes out as it went in", () => {
  fc.assert(
    fc.property(fc.constantFrom(4096, 10_000, 300 * KIB, 1024 * KIB), steps, (bytes, all) => {
      const walk = new Walk(bytes);
      for (const step of all) walk.step(step);
      walk.end();
    }),
    { numRuns: 150 },
  );
});

test("a write that goes on is one entry, of 256 KiB at most, until somebody was told of it", () => {
  const ring = WriteRing.ofSize(1024 * KIB);
  for (let at = 0; at < 300 * KIB; at += 60 * KIB) ring.write(3, 512 + at, Buffer.alloc(60 * KIB, 1), 7);
  ring.publish();
  ring.write(3, 512 + 300 * KIB, Buffer.alloc(512, 2), 7);
  ring.write(3, 1024 + 300 * KIB, Buffer.alloc(512, 2), 8);
  ring.write(4, 1536 + 300 * KIB, Buffer.alloc(512, 2), 8);
  ring.write(4, 4096, Buffer.alloc(512, 2), 8);
  ring.put(4, DISK_DISCARD, 4608, 512, 8);
  ring.write(4, 5120, Buffer.alloc(512, 2), 8);
  ring.publish();
  const entries = Array.from({ length: ring.published }, (_, ahead) => ring.peek(ahead)!);
  assert.deepEqual(
    entries.map(({ disk, kind, offset, length, epoch }) => [disk, kind, offset, length, epoch]),
    [
      [3, DISK_WRITE, 512, LONGEST, 7],
      [3, DISK_WRITE, 512 + LONGEST, 44 * KIB, 7],
      [3, DISK_WRITE, 512 + 300 * KIB, 512, 7],
      [3, DISK_WRITE, 1024 + 300 * KIB, 512, 8],
      [4, DISK_WRITE, 1536 + 300 * KIB, 512, 8],
      [4, DISK_WRITE, 4096, 512, 8],
      [4, DISK_DISCARD, 4608, 512, 8],
      [4, DISK_WRITE, 5120, 512, 8],
    ],
  );
});

test("I6: no more entries than slots, however small they are", () => {
  const ring = WriteRing.ofSize(4096 * KIB);
  for (let n = 0; n < SLOTS; n++) assert.ok(ring.put(0, DISK_ZERO, n * 512, 512, 1));
  assert.equal(ring.put(0, DISK_ZERO, 0, 512, 1), false);
  assert.equal(ring.write(0, 0, Buffer.alloc(512), 1), 0);
  assert.equal(ring.roomBytes, ring.capacityBytes, "what was refused takes no room");
  ring.publish();
  assert.equal(ring.published, SLOTS);
  ring.free(1);
  assert.equal(ring.write(0, 0, Buffer.alloc(LONGEST + 512, 5), 1), LONGEST, "one slot, one entry");
  assert.equal(ring.put(0, DISK_ZERO, 0, 512, 1), false);
  ring.publish();
  ring.free(SLOTS - 1);
  assert.deepEqual([ring.peek()!.length, ring.peek()!.data!.every((byte) => byte === 5)], [LONGEST, true]);
});

test("who listens is told once, and is not kept waiting for what is there already", () => {
  const ring = WriteRing.ofSize(4096);
  assert.equal(ring.publish(), false, "nobody asked");
  assert.equal(ring.listen(), true);
  ring.put(0, DISK_ZERO, 0, 512, 1);
  assert.equal(ring.publish(), true);
  assert.equal(ring.publish(), false, "once");
  assert.equal(ring.listen(), false, "there is an entry");
  assert.equal(ring.broken, false);
  ring.break();
  assert.equal(new WriteRing(ring.shared).broken, true);
});

/**
 * Runs `outer`, and `inner` in the midst of it: before the step with number `at` that touches shared words.
 */
function interrupted(t: TestContext, outer: () => boolean, inner: () => boolean, at: number) {
  let steps = 0;
  let answer: boolean | undefined;
  const mocks = (["load", "store", "exchange"] as const).map((name) => {
    const original = Atomics[name] as (...args: unknown[]) => unknown;
    return t.mock.method(Atomics, name, (...args: unknown[]) => {
      if (steps++ === at) answer = inner();
      return original(...args);
    });
  });
  try {
    return { outer: outer(), inner: answer };
  } finally {
    for (const { mock } of mocks) mock.restore();
  }
}

test("wherever one thread comes in between the other's steps: who sleeps is told", (t) => {
  for (const order of ["a publish, a listen within", "a listen, a publish within"])
    for (let at = 0; ; at++) {
      const ring = WriteRing.ofSize(4096);
      ring.put(0, DISK_ZERO, 0, 512, 1);
      const both = [() => ring.publish(), () => ring.listen()] as const;
      const [outer, inner] = order.startsWith("a publish") ? both : [both[1], both[0]];
      const answers = interrupted(t, outer, inner, at);
      if (answers.inner === undefined) {
        assert.ok(at >= 2, `${order}: only ${at} steps`);
        break;
      }
      const [told, sleeps] =
        outer === both[0] ? [answers.outer, answers.inner] : [answers.inner, answers.outer];
      assert.ok(told || !sleeps, `${order} before step ${at}`);
    }
});

test("two threads: every byte comes over, in order, and nobody sleeps through a bell", {
  timeout: 60_000,
}, async (t) => {
  const ENTRIES = 6000;
  const ring = WriteRing.ofSize(700 * KIB);
  const data: RingWriterData = { ring: ring.shared, entries: ENTRIES };
  const writer = new Worker(new URL("./disk-ring-writer.ts", import.meta.url), { workerData: data });
  t.after(() => writer.terminate());
  let at = 0;
  let naps = 0;
  let end = 0;
  for (let n = 0; n < ENTRIES; ) {
    if (ring.listen()) {
      naps++;
      await once(writer, "message");
      continue;
    }
    // A slow reader: some of what is there, in turns of its own.
    const count = Math.min(1 + (n % 5), ring.published - ring.freed);
    for (let ahead = 0; ahead < count; ahead++) {
      const entry = ring.peek(ahead)!;
      if (entry.kind !== DISK_WRITE) {
        n++;
        continue;
      }
      if (at === end) end += sizeOf(n);
      const { data, length } = entry;
      if (!bytesAt(at, length).equals(data!)) assert.fail(`the ${length} bytes at ${at} (write ${n})`);
      assert.equal(entry.offset, at);
      at += length;
      assert.ok(at <= end, "one write ends before the next begins");
      if (at === end) n++;
    }
    ring.free(count);
    if (n % 3 === 0) await new Promise((turn) => setImmediate(turn));
  }
  assert.ok(naps > 10, `only ${naps} naps: nothing was tried`);
  assert.equal(ring.listen(), true, "nothing is left");
});
