/**
 * A sync against a made-up pair of disks: the guest writes all the time, the mirror sends that in order and late, reads take a while and may catch a
 * write half done. Whatever happens, both disks are equal in the end.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DISK_WRITE, DISK_ZERO, type DiskEntry } from "../../src/codec/replication.ts";
import { hashBlocks, type ReadableDisk } from "../../src/disk/block-hash.ts";
import type { Extent } from "../../src/disk/extents.ts";
import { DiskSync, type SyncPeer, type SyncPlan } from "../../src/disk/sync.ts";

const DISK_BYTES = (1 << 20) + 512 * 3;
const SECTOR = 512;

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
  readonly random: () => number;
  sync: DiskSync | undefined;
  sentBytes = 0;
  /** The guest's writes that the mirror has and has not sent. */
  private readonly mirrored: DiskEntry[] = [];
  /** What was sent, and is not in the remote image yet. */
  private readonly underWay: DiskEntry[] = [];
  private busy = true;
  private readonly running: Promise<void>[] = [];

  constructor(seed: number) {
    this.random = randomOf(seed);
  }

  /** A few turns of the event loop. */
  async while(most: number): Promise<void> {
    for (let turns = Math.floor(this.random() * most); turns > 0; turns--)
      await new Promise((turn) => setImmediate(turn));
  }

  some(most: number): number {
    return Math.floor(this.random() * most);
  }

  begin(): void {
    this.running.push(this.guest(), this.mirror(), this.applier());
  }

  async end(): Promise<void> {
    this.busy = false;
    await Promise.all(this.running);
    while (this.mirrored.length > 0) this.ship(this.mirrored.shift()!);
    while (this.underWay.length > 0) this.apply(this.underWay.shift()!);
  }

  /** Changes the source at random places; the mirror hears of it later, in order. */
  private async guest(): Promise<void> {
    // Most writes go to a few places, so that many meet a read.
    const hot = Array.from({ length: 4 }, () => this.some(DISK_BYTES / SECTOR));
    while (this.busy) {
      const at = this.random() < 0.7 ? hot[this.some(4)]! + this.some(20) : this.some(DISK_BYTES / SECTOR);
      const offset = Math.min(at * SECTOR, DISK_BYTES - SECTOR);
      const length = Math.min((1 + this.some(this.random() < 0.8 ? 8 : 200)) * SECTOR, DISK_BYTES - offset);
      const zero = this.random() < 0.2;
      const data = new Uint8Array(length).fill(zero ? 0 : 1 + this.some(255));
      // Half now, half a little later: a read may come in between.
      this.source.set(data.subarray(0, length / 2), offset);
      if (this.random() < 0.3) await this.while(3);
      this.source.set(data, offset);
      const kind = zero ? DISK_ZERO : DISK_WRITE;
      this.mirrored.push({ disk: 0, kind, offset, length, ...(zero ? {} : { data }) });
      await this.while(3);
    }
  }

  private async mirror(): Promise<void> {
    while (this.busy) {
      const entry = this.mirrored.shift();
      if (entry !== undefined) this.ship(entry);
      await this.while(3);
    }
  }

  private ship(entry: DiskEntry): void {
    this.sync?.overtake({ from: entry.offset, to: entry.offset + entry.length });
    this.underWay.push(entry);
  }

  private async applier(): Promise<void> {
    while (this.busy) {
      const entry = this.underWay.shift();
      if (entry !== undefined) this.apply(entry);
      await this.while(2);
    }
  }

  private apply({ offset, length, data }: DiskEntry): void {
    if (data === undefined) this.remote.fill(0, offset, offset + length);
    else this.remote.set(data, offset);
  }

  /** The source as the sync reads it: what a read gets is from one moment or another while it lasts, half by half. */
  disk(bytes: Uint8Array): ReadableDisk {
    return {
      bytes: DISK_BYTES,
      read: async (offset, length) => {
        await this.while(4);
        const first = bytes.slice(offset, offset + Math.floor(length / 2));
        await this.while(4);
        const second = bytes.slice(offset + Math.floor(length / 2), offset + length);
        await this.while(2);
        return Buffer.concat([first, second]);
      },
      blockStatus: async (offset, length) => {
        await this.while(2);
        const step = 4096 - (offset % 4096);
        const end = Math.min(offset + length, offset + step);
        return [
          { length: end - offset, flags: bytes.subarray(offset, end).every((byte) => byte === 0) ? 3 : 0 },
        ];
      },
    };
  }

  async room(): Promise<void> {
    await this.while(2);
  }

  send(entries: readonly DiskEntry[]): void {
    for (const entry of entries) {
      this.sentBytes += entry.data?.length ?? 0;
      // What is sent must not change any more, whoever owns the bytes.
      this.underWay.push(entry.data === undefined ? entry : { ...entry, data: entry.data.slice() });
    }
  }

  async hashes(_disk: number, blockBytes: number, offset: number, count: number): Promise<Uint8Array> {
    await this.while(4);
    const to = Math.min(DISK_BYTES, offset + blockBytes * count);
    return await hashBlocks(this.disk(this.remote), { from: offset, to }, blockBytes);
  }
}

function fill(bytes: Uint8Array, random: () => number): void {
  for (let at = 0; at < bytes.length; at += 4096)
    bytes.fill(random() < 0.5 ? 0 : 1 + Math.floor(random() * 255), at, Math.min(bytes.length, at + 4096));
}

/** What differs, in blocks of 4 KiB. */
function differing(a: Uint8Array, b: Uint8Array): Extent[] {
  const found: Extent[] = [];
  for (let from = 0; from < a.length; from += 4096) {
    const to = Math.min(a.length, from + 4096);
    if (Buffer.compare(a.subarray(from, to), b.subarray(from, to)) !== 0) found.push({ from, to });
  }
  return found;
}

/** Each makes the remote image what the plan says that it is, before the guest goes on. */
const plans: Record<string, (world: World) => SyncPlan> = {
  blank: () => ({ kind: "blank" }),
  compare: (world) => {
    world.remote.set(world.source);
    for (let change = 0; change < 40; change++) {
      const from = world.some(DISK_BYTES / SECTOR) * SECTOR;
      world.remote.fill(world.some(256), from, from + (1 + world.some(30)) * SECTOR);
    }
    return { kind: "compare" };
  },
  records: (world) => {
    world.remote.set(world.source);
    const changed: Extent[] = [];
    for (let change = 0; change < 20; change++) {
      const from = world.some(DISK_BYTES / SECTOR - 8) * SECTOR;
      world.source.fill(world.some(256), from, from + 4 * SECTOR);
      changed.push({ from, to: from + 4 * SECTOR });
    }
    const suspect: Extent[] = [];
    for (let change = 0; change < 10; change++) {
      const from = world.some(DISK_BYTES / 65536) * 65536;
      world.remote.fill(world.some(256), from + 8192, from + 12288);
      suspect.push({ from, to: Math.min(DISK_BYTES, from + 65536) });
    }
    return { kind: "records", changed, suspect };
  },
};

for (const [name, prepare] of Object.entries(plans))
  test(`${name}: both disks are equal in the end, whatever the guest writes meanwhile`, async () => {
    for (let seed = 1; seed <= 12; seed++) {
      const world = new World(seed);
      fill(world.source, world.random);
      const plan = prepare(world);
      world.sync = new DiskSync(0, world.disk(world.source), world);
      world.begin();
      await world.sync.run(plan);
      await world.end();
      assert.deepEqual(differing(world.source, world.remote), [], `seed ${seed}`);
      const { doneBytes, totalBytes } = world.sync.progress;
      assert.equal(doneBytes, totalBytes);
      assert.ok(totalBytes > 0);
    }
  });

test("nothing differs, nothing is sent; one block differs, one block is sent", async () => {
  for (const changed of [0, 1]) {
    const world = new World(7);
    fill(world.source, world.random);
    world.remote.set(world.source);
    if (changed === 1) world.remote[123 * 4096]! ^= 1;
    world.sync = new DiskSync(0, world.disk(world.source), world);
    await world.sync.run({ kind: "compare" });
    await world.end();
    assert.deepEqual(differing(world.source, world.remote), []);
    assert.equal(world.sync.progress.sentBytes, world.sentBytes);
    assert.ok(world.sentBytes <= changed * 4096);
  }
});

test("zeroes travel as zeroes: what is sparse stays sparse", async () => {
  const world = new World(3);
  world.source.fill(9, 40960, 45056);
  world.sync = new DiskSync(0, world.disk(world.source), world);
  await world.sync.run({ kind: "blank" });
  await world.end();
  assert.deepEqual(differing(world.source, world.remote), []);
  assert.equal(world.sentBytes, 4096);
});

test("a sync that is stopped, or cannot read, fails with a sentence", async () => {
  const world = new World(1);
  const stopped = new DiskSync(0, world.disk(world.source), world);
  stopped.stop();
  await assert.rejects(stopped.run({ kind: "blank" }), /stopped/);
  const broken = { ...world.disk(world.source), read: () => Promise.reject(new Error("I/O error at 0")) };
  fill(world.source, world.random);
  await assert.rejects(new DiskSync(0, broken, world).run({ kind: "blank" }), /I\/O error/);
});
