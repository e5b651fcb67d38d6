/**
 * What the guest has written to its disks and the link has not taken yet: one ring for all disks of a VM, in
 * shared memory. The disk thread puts requests in, the main thread takes them out, in order. That nothing
 * else holds the guest's writes at the primary is what bounds their memory (I6): a full ring makes the guest
 * wait.
 *
 * Entries lie in slots of fixed size, their data in a ring of bytes beside them. What was put in is seen by
 * the other side only after `publish`.
 */
import { DISK_WRITE, type DiskEntry, type DiskEntryKind } from "../codec/replication.ts";
import type { EpochId } from "../core/words.ts";

/** One request of the guest's, or a part of one. `data`, of a write, lies in the ring: good until `free`. */
export interface RingEntry extends DiskEntry {
  readonly epoch: EpochId;
}

export interface SharedRing {
  readonly data: SharedArrayBuffer;
  readonly slots: SharedArrayBuffer;
  readonly words: SharedArrayBuffer;
}

/**
 * Words of 64 bits: slots ever published, slots ever freed, bytes ever freed; whether the reader wants to be
 * told; the writer's health; whether what comes is still wanted.
 */
const WORD = { published: 0, freed: 1, freedBytes: 2, bell: 3, broken: 4, abandoned: 5 } as const;
const WORD_COUNT = 6;
/**
 * Numbers in a slot: disk, kind, offset, length, epoch, and where its data begins, counted in bytes ever put
 * in.
 */
const SLOT = { disk: 0, kind: 1, offset: 2, length: 3, epoch: 4, at: 5 } as const;
const SLOT_NUMBERS = 6;
const SLOT_COUNT = 4096;
/**
 * Longer runs of data become several entries, so that a reader can send the first while the last still comes.
 */
const LONGEST_ENTRY_BYTES = 256 << 10;

export class WriteRing {
  readonly shared: SharedRing;
  readonly capacityBytes: number;
  private readonly data: Uint8Array;
  private readonly slots: Float64Array;
  private readonly words: BigInt64Array;
  /** The writer's own: slots and bytes put in, published or not. */
  private putSlots = 0;
  private putBytes = 0;
  /** The newest slot may still be made longer. */
  private open = false;

  constructor(shared: SharedRing) {
    this.shared = shared;
    this.data = new Uint8Array(shared.data);
    this.slots = new Float64Array(shared.slots);
    this.words = new BigInt64Array(shared.words);
    this.capacityBytes = this.data.length;
  }

  /** A ring for `bytes` of data, rounded down to whole sectors. */
  static ofSize(bytes: number): WriteRing {
    return new WriteRing({
      data: new SharedArrayBuffer(Math.max(4096, bytes - (bytes % 512))),
      slots: new SharedArrayBuffer(SLOT_COUNT * SLOT_NUMBERS * 8),
      words: new SharedArrayBuffer(WORD_COUNT * 8),
    });
  }

  // The writer

  /** Bytes of data that have room now. */
  get roomBytes(): number {
    return this.capacityBytes - (this.putBytes - this.word(WORD.freedBytes));
  }

  /** Puts a zero or discard in. False, and nothing done, when there is no slot free. */
  put(
    disk: number,
    kind: Exclude<DiskEntryKind, typeof DISK_WRITE>,
    offset: number,
    length: number,
    epoch: EpochId,
  ): boolean {
    const done = this.openSlot(disk, kind, offset, length, epoch);
    this.open = false;
    return done;
  }

  /**
   * Puts data in, at most `most` bytes of it. Data that follows the last piece makes its entry longer.
   * Returns how many bytes were taken; fewer when there is no room.
   */
  write(disk: number, offset: number, piece: Uint8Array, epoch: EpochId, most = this.roomBytes): number {
    let taken = 0;
    const end = Math.min(piece.length, most, this.roomBytes);
    while (taken < end) {
      if (
        !this.continues(disk, offset + taken, epoch) &&
        !this.openSlot(disk, DISK_WRITE, offset + taken, 0, epoch)
      )
        break;
      taken += this.extend(piece.subarray(taken, end));
    }
    return taken;
  }

  /** Lets the reader see all that was put in. True if it asked to be told of it (see `listen`). */
  publish(): boolean {
    this.open = false;
    Atomics.store(this.words, WORD.published, BigInt(this.putSlots));
    return Atomics.exchange(this.words, WORD.bell, 0n) === 1n;
  }

  /** The writer can no longer be trusted to have put everything in. */
  break(): void {
    Atomics.store(this.words, WORD.broken, 1n);
  }

  /** The reader drops whatever comes. */
  get abandoned(): boolean {
    return this.word(WORD.abandoned) === 1;
  }

  // The reader

  get broken(): boolean {
    return this.word(WORD.broken) === 1;
  }

  /** Counts entries ever published: an entry that was published before this call is below it. */
  get published(): number {
    return this.word(WORD.published);
  }

  /** Counts entries ever freed. */
  get freed(): number {
    return this.word(WORD.freed);
  }

  /** The published entry that is `ahead` behind the oldest one that is not freed. */
  peek(ahead = 0): RingEntry | undefined {
    const slot = this.freed + ahead;
    if (slot >= this.published) return undefined;
    const base = (slot % SLOT_COUNT) * SLOT_NUMBERS;
    const kind = this.slots[base + SLOT.kind]! as DiskEntryKind;
    const length = this.slots[base + SLOT.length]!;
    const at = this.slots[base + SLOT.at]! % this.capacityBytes;
    return {
      disk: this.slots[base + SLOT.disk]!,
      kind,
      offset: this.slots[base + SLOT.offset]!,
      length,
      epoch: this.slots[base + SLOT.epoch]!,
      ...(kind === DISK_WRITE ? { data: this.data.subarray(at, at + length) } : {}),
    };
  }

  /** Gives the room of the oldest `count` entries back. */
  free(count: number): void {
    let bytes = 0;
    for (let ahead = 0; ahead < count; ahead++) bytes += this.peek(ahead)?.data?.length ?? 0;
    Atomics.add(this.words, WORD.freedBytes, BigInt(bytes));
    Atomics.add(this.words, WORD.freed, BigInt(count));
  }

  /** The next `publish` will say true. False, and not so, if there is something to read already. */
  listen(): boolean {
    Atomics.store(this.words, WORD.bell, 1n);
    return this.peek() === undefined;
  }

  /** From now on what comes is dropped: let the writer not spare room for anything. */
  abandon(): void {
    Atomics.store(this.words, WORD.abandoned, 1n);
  }

  private word(index: number): number {
    return Number(Atomics.load(this.words, index));
  }

  private openSlot(
    disk: number,
    kind: DiskEntryKind,
    offset: number,
    length: number,
    epoch: EpochId,
  ): boolean {
    if (this.putSlots - this.freed >= SLOT_COUNT) return false;
    const base = (this.putSlots++ % SLOT_COUNT) * SLOT_NUMBERS;
    this.slots[base + SLOT.disk] = disk;
    this.slots[base + SLOT.kind] = kind;
    this.slots[base + SLOT.offset] = offset;
    this.slots[base + SLOT.length] = length;
    this.slots[base + SLOT.epoch] = epoch;
    this.slots[base + SLOT.at] = this.putBytes;
    this.open = true;
    return true;
  }

  /** Whether data at `offset` follows what the newest slot holds, without a break in the ring of bytes. */
  private continues(disk: number, offset: number, epoch: EpochId): boolean {
    if (!this.open || this.putBytes % this.capacityBytes === 0) return false;
    const base = ((this.putSlots - 1) % SLOT_COUNT) * SLOT_NUMBERS;
    const length = this.slots[base + SLOT.length]!;
    return (
      this.slots[base + SLOT.kind] === DISK_WRITE &&
      this.slots[base + SLOT.disk] === disk &&
      this.slots[base + SLOT.epoch] === epoch &&
      this.slots[base + SLOT.offset]! + length === offset &&
      length < LONGEST_ENTRY_BYTES
    );
  }

  private extend(piece: Uint8Array): number {
    const base = ((this.putSlots - 1) % SLOT_COUNT) * SLOT_NUMBERS;
    const length = this.slots[base + SLOT.length]!;
    const at = this.putBytes % this.capacityBytes;
    const count = Math.min(piece.length, this.capacityBytes - at, LONGEST_ENTRY_BYTES - length);
    this.data.set(piece.subarray(0, count), at);
    this.slots[base + SLOT.length] = length + count;
    this.putBytes += count;
    return count;
  }
}
