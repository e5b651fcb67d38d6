/**
 * A sync against a made-up pair of disks. The guest writes all the time, wherever the sync reads just then;
 * the mirror sends what it wrote in order and late; reads take a while and catch writes half done; the other
 * side applies what it gets late, and answers from what it has. Whatever happens, both disks are equal in the
 * end.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DISK_WRITE, DISK_ZERO, type DiskEntry } from "../../src/codec/replication.ts";
import { hashBlocks, type ReadableDisk } from "../../src/disk/block-hash.ts";
import type { Extent } from "../../src/disk/extents.ts";
import { DiskSync, type SyncPeer, type SyncPlan } from "../../src/disk/sync.ts";

const SECTOR = 512;
const BLOCK = 4096;
/** The source tells of zeroes in pieces of this size; within one there may be more. */
const CLUSTER = 65536;
/** Not a whole number of blocks; more than two strides. */
const DISK_BYTES = (9 << 20) + 3 * SECTOR;
const SECTORS = DISK_BYTES / SECTOR;
/** What is not zero at the start: around the borders of strides, and here and there. */
const DATA: readonly Extent[] = [
  { from: 0, to: 64 << 10 },
  { from: (4 << 20) - (200 << 10), to: (4 << 20) + (300 << 10) },
  { from: (5 << 20) + SECTOR, to: (7 << 20) - SECTOR },
  { from: DISK_BYTES - (100 << 10), to: DISK_BYTES },
];

/** Numbers in [0, 1), the same for the same seed. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

class World implements SyncPeer {
  readonly source = new Uint8Array(DISK_BYTES);
  readonly remote = new Uint8Array(DISK_BYTES);
  readonly sync: DiskSync;
  sentBytes = 0;
  guestWrites = 0;
  /** Reads of the source that the guest wrote into while they lasted. */
  metReads = 0;
  readonly random: () => number;
  private readonly reads = new Set<Extent>();
  /** The guest's writes that the mirror has and has not sent. */
  private readonly mirrored: DiskEntry[] = [];
  /** What was sent, and is not in the remote image yet. */
  private readonly underWay: DiskEntry[] = [];
  private busy = true;
  private readonly running: Promise<void>[] = [];
  private stamp = 0;

  constructor(seed: number, change: (source: ReadableDisk) => ReadableDisk = (source) => source) {
    this.random = randomOf(seed);
    for (const { from, to } of DATA)
      for (let at = from; at < to; at += SECTOR)
        if (this.random() < 0.8) this.source.set(this.contents(SECTOR), at);
    this.sync = new DiskSync(0, change(this.disk(this.source)), this);
  }

  some(most: number): number {
    return Math.floor(this.random() * most);
  }

  /** What stands nowhere else yet. */
  contents(length: number): Uint8Array {
    const stamp = ++this.stamp;
    return Buffer.alloc(length, Uint8Array.of(1 + (stamp % 251), 1 + (stamp % 241), 1 + (stamp % 239)));
  }

  /** A few turns of the event loop. */
  async while(most: number): Promise<void> {
    for (let turns = this.some(most); turns > 0; turns--) await new Promise((turn) => setImmediate(turn));
  }

  /**
   * Runs the sync with the guest, the mirror and the other side at work, until all that was sent is there.
   */
  async run(plan: SyncPlan): Promise<void> {
    this.running.push(this.guest(), this.mirror(), this.applier());
    try {
      await this.sync.run(plan);
    } finally {
      await this.end();
    }
  }

  async end(): Promise<void> {
    this.busy = false;
    await Promise.all(this.running);
    while (this.mirrored.length > 0) this.ship(this.mirrored.shift()!);
    while (this.underWay.length > 0) this.apply(this.underWay.shift()!);
  }

  get differing(): Extent[] {
    const found: Extent[] = [];
    for (let from = 0; from < DISK_BYTES; from += SECTOR) {
      const to = from + SECTOR;
      if (Buffer.compare(this.source.subarray(from, to), this.remote.subarray(from, to)) !== 0)
        found.push({ from, to });
    }
    return found;
  }

  /** Changes the source; the mirror hears of each change when it is done, in order. */
  private async guest(): Promise<void> {
    while (this.busy) {
      const offset = this.place();
      const sectors = this.random() < 0.9 ? 1 + this.some(8) : 1 + this.some(20);
      const length = Math.min(sectors * SECTOR, DISK_BYTES - offset);
      const zero = this.random() < 0.2;
      const data = zero ? new Uint8Array(length) : this.contents(length);
      for (const read of this.reads) if (read.from < offset + length && offset < read.to) this.metReads++;
      // Half now, half a little later: a read may come in between.
      this.source.set(data.subarray(0, length / 2), offset);
      if (this.random() < 0.3) await this.while(3);
      this.source.set(data, offset);
      const kind = zero ? DISK_ZERO : DISK_WRITE;
      this.mirrored.push({ disk: 0, kind, offset, length, ...(zero ? {} : { data }) });
      this.guestWrites++;
      await this.while(2);
    }
  }

  /** Mostly where a read is under way: there it could go wrong. */
  private place(): number {
    const reads = [...this.reads];
    const read = this.random() < 0.7 ? reads[this.some(reads.length)] : undefined;
    const { from, to } = read ?? { from: 0, to: DISK_BYTES };
    return from - (from % SECTOR) + this.some((to - from) / SECTOR) * SECTOR;
  }

  private async mirror(): Promise<void> {
    while (this.busy) {
      for (let count = this.some(4); count > 0 && this.mirrored.length > 0; count--)
        this.ship(this.mirrored.shift()!);
      await this.while(4);
    }
  }

  private ship(entry: DiskEntry): void {
    this.sync.overtake({ from: entry.offset, to: entry.offset + entry.length });
    this.underWay.push(entry);
  }

  private async applier(): Promise<void> {
    while (this.busy) {
      for (let count = this.some(6); count > 0 && this.underWay.length > 0; count--)
        this.apply(this.underWay.shift()!);
      await this.while(4);
    }
  }

  private apply({ offset, length, data }: DiskEntry): void {
    if (data === undefined) this.remote.fill(0, offset, offset + length);
    else this.remote.set(data, offset);
  }

  /** What a read gets is from many moments while it lasts, piece by piece in any order. */
  private disk(bytes: Uint8Array): ReadableDisk {
    return {
      bytes: DISK_BYTES,
      read: async (offset, length) => {
        assert.ok(length > 0 && offset + length <= DISK_BYTES, `read of ${length} at ${offset}`);
        const read = { from: offset, to: offset + length };
        if (bytes === this.source) this.reads.add(read);
        await this.while(4);
        const got = new Uint8Array(length);
        const piece = Math.max(SECTOR, Math.ceil(length / 3));
        for (const third of this.random() < 0.5 ? [0, 1, 2] : [2, 0, 1]) {
          const part = bytes.subarray(
            offset + third * piece,
            Math.min(offset + length, offset + (third + 1) * piece),
          );
          got.set(part, Math.min(length, third * piece));
          await this.while(4);
        }
        this.reads.delete(read);
        return got;
      },
      blockStatus: async (offset, length) => {
        await this.while(3);
        const extents: { length: number; flags: number }[] = [];
        let at = offset;
        for (let count = 1 + this.some(20); count > 0 && at < offset + length; count--) {
          const end = Math.min(offset + length, at - (at % CLUSTER) + CLUSTER);
          const zero = Buffer.compare(bytes.subarray(at, end), ZEROES.subarray(0, end - at)) === 0;
          const [flags, last] = [zero ? 3 : 0, extents.at(-1)];
          if (last?.flags === flags) last.length += end - at;
          else extents.push({ length: end - at, flags });
          at = end;
        }
        return extents;
      },
    };
  }

  // The other side

  async room(): Promise<void> {
    await this.while(3);
  }

  send(entries: readonly DiskEntry[]): void {
    for (const { data, ...entry } of entries) {
      this.sentBytes += data?.length ?? 0;
      // What is sent must not change any more, whoever owns the bytes.
      this.underWay.push(data === undefined ? entry : { ...entry, data: data.slice() });
    }
  }

  async hashes(_disk: number, blockBytes: number, offset: number, count: number): Promise<Uint8Array> {
    assert.ok(count >= 1 && count <= 4096 && offset + (count - 1) * blockBytes < DISK_BYTES);
    await this.while(4);
    const to = Math.min(DISK_BYTES, offset + blockBytes * count);
    return await hashBlocks(this.disk(this.remote), { from: offset, to }, blockBytes);
  }
}

const ZEROES = Buffer.alloc(CLUSTER);

/** Each makes the remote image what the plan says that it is, before the guest goes on. */
const plans: Record<string, (world: World) => SyncPlan> = {
  "blank: all that is not zero": () => ({ kind: "blank" }),
  "compare, with something else altogether": (world) => {
    for (let at = 0; at < DISK_BYTES; at += 1 << 20) world.remote.fill(world.some(256), at, at + (1 << 19));
    return { kind: "compare" };
  },
  "compare, with an older state": (world) => {
    world.remote.set(world.source);
    for (let change = 0; change < 60; change++) {
      const at = world.some(SECTORS - 8) * SECTOR;
      world.source.set(world.contents(SECTOR * (1 + world.some(8))), at);
    }
    return { kind: "compare" };
  },
  "records of both sides": (world) => {
    world.remote.set(world.source);
    const changed: Extent[] = [];
    for (let change = 0; change < 20; change++) {
      const from = world.some(SECTORS - 8) * SECTOR;
      const to = from + 4 * SECTOR;
      world.source.set(world.random() < 0.3 ? new Uint8Array(to - from) : world.contents(to - from), from);
      changed.push({ from, to });
    }
    const suspect: Extent[] = [];
    for (let change = 0; change < 12; change++) {
      const from = world.some(SECTORS - 8) * SECTOR;
      const to = from + (1 + world.some(8)) * SECTOR;
      if (change % 3 > 0) world.remote.set(world.contents(to - from), from);
      suspect.push({ from, to });
    }
    return { kind: "records", changed, suspect };
  },
};

for (const [name, prepare] of Object.entries(plans))
  test(`${name}: both disks are equal in the end, whatever the guest writes meanwhile`, async () => {
    let metReads = 0;
    for (let seed = 1; seed <= 6; seed++) {
      const world = new World(seed);
      await world.run(prepare(world));
      assert.deepEqual(world.differing, [], `seed ${seed}`);
      const { doneBytes, sentBytes, totalBytes } = world.sync.progress;
      assert.equal(doneBytes, totalBytes);
      assert.ok(totalBytes > 0);
      assert.equal(sentBytes, world.sentBytes);
      metReads += world.metReads;
    }
    assert.ok(metReads > 20, `the guest wrote into ${metReads} reads: nothing was tried`);
  });

test("nothing differs, nothing is sent; one byte differs, one small block is sent", async () => {
  for (const changed of [[], [123 * BLOCK + 7], [DISK_BYTES - 1]]) {
    const world = new World(7);
    world.remote.set(world.source);
    for (const at of changed) world.remote[at]! ^= 1;
    await world.sync.run({ kind: "compare" });
    await world.end();
    assert.deepEqual(world.differing, []);
    assert.ok(world.sentBytes <= changed.length * BLOCK, `${world.sentBytes} bytes sent`);
  }
});

test("of records, what is said to have changed is sent, what is suspected is compared, the rest is left alone", async () => {
  const world = new World(5);
  world.remote.set(world.source);
  const changed = [{ from: 8192, to: 16384 }];
  // In a suspect: a difference to be found. Elsewhere: one that nobody is told of.
  world.remote[(4 << 20) + 70_000]! ^= 1;
  world.remote[(8 << 20) + 8192]! ^= 1;
  const suspect = [
    { from: 0, to: 65536 },
    { from: (4 << 20) + 65536, to: (4 << 20) + 131_072 },
  ];
  await world.sync.run({ kind: "records", changed, suspect });
  await world.end();
  assert.deepEqual(world.differing, [{ from: (8 << 20) + 8192, to: (8 << 20) + 8192 + SECTOR }]);
  assert.ok(world.sentBytes <= 8192 + BLOCK, `${world.sentBytes} bytes sent`);
  const bytes = 65536 + 65536;
  assert.deepEqual(world.sync.progress, { totalBytes: bytes, doneBytes: bytes, sentBytes: world.sentBytes });
});

test("of an image in clusters, what is on record makes the rest of its cluster suspect (I7)", async () => {
  const clusterBytes = 256 << 10;
  const changed = [{ from: clusterBytes + 8192, to: clusterBytes + 12_288 }];
  for (const [plan, found] of [
    [{ changed, suspect: [] }, true],
    [{ changed: [], suspect: changed }, true],
    [{ changed: [], suspect: [] }, false],
  ] as const) {
    const world = new World(5);
    world.remote.set(world.source);
    // A new cluster whose zeroes were lost, at both ends of it.
    for (const at of [clusterBytes, 2 * clusterBytes - 1]) world.remote[at]! ^= 1;
    await world.sync.run({ kind: "records", clusterBytes, ...plan });
    await world.end();
    assert.equal(world.differing.length, found ? 0 : 2);
    assert.ok(world.sentBytes <= 3 * BLOCK, `${world.sentBytes} bytes sent`);
  }
});

test("no records: in step at once", async () => {
  const world = new World(5);
  await world.sync.run({ kind: "records", changed: [], suspect: [] });
  assert.deepEqual(world.sync.progress, { totalBytes: 0, doneBytes: 0, sentBytes: 0 });
});

test("zeroes travel as zeroes: what is sparse stays sparse", async () => {
  const world = new World(3);
  world.source.fill(0);
  world.source.fill(9, 10 * BLOCK, 11 * BLOCK);
  await world.sync.run({ kind: "blank" });
  await world.end();
  assert.deepEqual(world.differing, []);
  assert.equal(world.sentBytes, BLOCK);
});

test("progress counts up to the whole", async () => {
  const seen: number[] = [];
  const world: World = new World(2, (source) => ({
    ...source,
    read: (...range) => {
      seen.push(world.sync.progress.doneBytes);
      return source.read(...range);
    },
  }));
  await world.run({ kind: "blank" });
  assert.deepEqual(
    seen,
    seen.toSorted((a, b) => a - b),
  );
  assert.deepEqual([seen[0], world.sync.progress.doneBytes], [0, DISK_BYTES]);
});

/** Turns of the event loop, far more than anything in this world takes. */
async function aWhile(): Promise<void> {
  for (let turns = 0; turns < 500; turns++) await new Promise((turn) => setImmediate(turn));
}

test("a sync that is stopped fails with a sentence, and sends nothing from then on", async () => {
  const before = new World(1);
  before.sync.stop();
  await assert.rejects(before.sync.run({ kind: "blank" }), /^Error: the sync was stopped$/);
  assert.equal(before.sentBytes, 0);
  let sent = 0;
  const world: World = new World(1, (source) => ({
    ...source,
    read: async (...range) => {
      const bytes = await source.read(...range);
      if (world.sentBytes > 0 && sent === 0) {
        world.sync.stop();
        sent = world.sentBytes;
      }
      return bytes;
    },
  }));
  await assert.rejects(world.run({ kind: "blank" }), /^Error: the sync was stopped$/);
  await aWhile();
  assert.ok(sent > 0);
  assert.equal(world.sentBytes, sent);
});

for (const kind of ["blank", "compare"] as const)
  test(`${kind}: what cannot be read fails the sync, and those that are side by side end with it`, async () => {
    let reads = 0;
    const world: World = new World(1, (source) => ({
      ...source,
      read: (...range) => {
        if (++reads === 3) return Promise.reject(new Error("read of 4096 bytes at 0 failed with EIO"));
        return source.read(...range);
      },
    }));
    await assert.rejects(world.run({ kind }), /failed with EIO/);
    const [sent, begun] = [world.sentBytes, reads];
    await aWhile();
    assert.equal(world.sentBytes, sent, "sent after the failure was told");
    if (kind === "blank") assert.equal(reads, begun, "read after the failure was told");
  });

for (const what of ["room", "hashes"] as const)
  test(`a backup that goes while it is asked for ${what} fails the sync`, async (t) => {
    const world = new World(1);
    const gone = () => Promise.reject(new Error("the backup is gone"));
    t.mock.method(world, what).mock.mockImplementationOnce(gone, 2);
    await assert.rejects(world.run({ kind: "compare" }), /the backup is gone/);
  });
