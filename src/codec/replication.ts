// The words of the replication link between the two guardians of one VM: messages, limits, errors.
// docs/specs/replication.md is the specification, field by field; the codec is spread over replication-*.ts.

/** Bytes 0..3 of every message: "RMUS". */
export const MAGIC = 0x524d5553;
/** Version of the framing (byte 4). HELLO names the version of the conversation beside it. */
export const FRAMING_VERSION = 1;
/** Version of the conversation: which messages there are and who sends them when. */
export const PROTOCOL_VERSION = 3;
export const HEADER_BYTES = 48;
export const PAGE_BYTES = 4096;

const KIB = 1024;
const MIB = 1024 * KIB;

/**
 * Entries in one PAGES message. 256 pages are one MiB: the backup checks and stages a MiB while the next one
 * is on its way, so the last check before an ack is short; and a header per MiB costs nothing.
 */
export const MAX_PAGES_PER_MESSAGE = 256;
export const PAGE_ENTRY_BYTES = 8;
export const PAGES_PAYLOAD_MAX = 4 + MAX_PAGES_PER_MESSAGE * (PAGE_ENTRY_BYTES + PAGE_BYTES);
export const DEVICE_STATE_MAX = 64 * MIB;
export const DEVICE_STATE_PIECE_MAX = 1 * MIB;
export const MAX_RAM_BLOCKS = 4096;
/** A page number has 32 bits, so a RAM block ends here: 16 TiB. */
export const MAX_BLOCK_BYTES = 2 ** 32 * PAGE_BYTES;

export const PAGE_RAW = 0;
export const PAGE_ZERO = 1;

/**
 * Entries and bytes of writes in one DISK message: as with pages, the backup takes one MiB in while the next
 * is on its way.
 */
export const MAX_DISK_ENTRIES = 1024;
export const DISK_ENTRY_BYTES = 16;
export const MAX_DISK_DATA_BYTES = 1 * MIB;
export const DISK_PAYLOAD_MAX = 4 + MAX_DISK_ENTRIES * DISK_ENTRY_BYTES + MAX_DISK_DATA_BYTES;

export const DISK_WRITE = 0;
export const DISK_ZERO = 1;
export const DISK_DISCARD = 2;

/** Replicated disks of one VM. */
export const MAX_DISKS = 8;
/** Extents that the backup may name as suspect, of one disk. */
export const MAX_SUSPECTS = 4096;

/** Blocks whose hashes are compared: a power of two. */
export const MIN_HASH_BLOCK_BYTES = 512;
export const MAX_HASH_BLOCK_BYTES = 1 * MIB;
export const MAX_HASHES_PER_MESSAGE = 4096;
export const HASH_BYTES = 16;
/** u16 disk, u16 0, u32 block size, u64 offset, u32 count. */
export const HASH_RANGE_BYTES = 20;

/**
 * A frame for the guest with its virtio-net header: no shorter than the two headers, no longer than
 * offloading makes it.
 */
const MIN_INPUT_BYTES = 10 + 14;
const MAX_INPUT_BYTES = 10 + 14 + 65_536 + 8;

/** Paths of one session. */
export const MAX_PATHS = 8;

export type Role = "primary" | "backup";

interface MessageRule {
  /** Byte 5 of the header. */
  readonly code: number;
  /** Who may receive it. */
  readonly to: Role | "both";
  /** Shortest and longest payload, in bytes. The longest is checked before anything is allocated. */
  readonly min: number;
  readonly max: number;
  /** Whether the epoch field means something; where it does not, it must be 0. */
  readonly epoch: boolean;
}

/** Every message there is. */
export const MESSAGES = {
  hello: { code: 1, to: "backup", min: 2, max: 64 * KIB, epoch: false },
  welcome: { code: 2, to: "primary", min: 2, max: MIB, epoch: false },
  refuse: { code: 3, to: "primary", min: 2, max: 64 * KIB, epoch: false },
  layout: { code: 4, to: "backup", min: 8, max: MIB, epoch: false },
  pages: { code: 5, to: "backup", min: 4 + PAGE_ENTRY_BYTES, max: PAGES_PAYLOAD_MAX, epoch: true },
  "device-state": { code: 6, to: "backup", min: 9, max: 8 + DEVICE_STATE_PIECE_MAX, epoch: true },
  "checkpoint-end": { code: 7, to: "backup", min: 20, max: 20, epoch: true },
  ack: { code: 8, to: "primary", min: 0, max: 0, epoch: true },
  heartbeat: { code: 9, to: "both", min: 8, max: 8, epoch: false },
  goodbye: { code: 10, to: "backup", min: 0, max: 0, epoch: false },
  "goodbye-ok": { code: 11, to: "primary", min: 0, max: 0, epoch: false },
  takeover: { code: 12, to: "primary", min: 0, max: 0, epoch: true },
  abort: { code: 13, to: "backup", min: 0, max: 0, epoch: true },
  disk: { code: 14, to: "backup", min: 4 + DISK_ENTRY_BYTES, max: DISK_PAYLOAD_MAX, epoch: true },
  "disk-applied": { code: 15, to: "primary", min: 8, max: 8, epoch: false },
  "disk-durable": { code: 16, to: "primary", min: 0, max: 0, epoch: true },
  "hash-ask": { code: 17, to: "backup", min: HASH_RANGE_BYTES, max: HASH_RANGE_BYTES, epoch: false },
  hashes: {
    code: 18,
    to: "primary",
    min: HASH_RANGE_BYTES + HASH_BYTES,
    max: HASH_RANGE_BYTES + MAX_HASHES_PER_MESSAGE * HASH_BYTES,
    epoch: false,
  },
  handover: { code: 19, to: "backup", min: 0, max: 0, epoch: true },
  "handover-refused": { code: 20, to: "primary", min: 2, max: 64 * KIB, epoch: false },
  unable: { code: 21, to: "primary", min: 2, max: 64 * KIB, epoch: false },
  join: { code: 22, to: "backup", min: 20, max: 20, epoch: false },
  joined: { code: 23, to: "primary", min: 0, max: 0, epoch: false },
  carry: { code: 24, to: "both", min: 8, max: 8, epoch: false },
  input: { code: 25, to: "backup", min: 2 + MIN_INPUT_BYTES, max: 2 + MAX_INPUT_BYTES, epoch: false },
} as const satisfies Record<string, MessageRule>;

export type MessageType = keyof typeof MESSAGES;

/**
 * About a path, or a last word that is said on every path: not in the numbered stream, and never sent again.
 */
const OUTSIDE_STREAM: ReadonlySet<MessageType> = new Set([
  "hello",
  "welcome",
  "refuse",
  "heartbeat",
  "takeover",
  "unable",
  "join",
  "joined",
  "carry",
]);

/**
 * Whether messages of this type are numbered: each is delivered exactly once, in order, whatever path it came
 * by.
 */
export function isInStream(type: MessageType): boolean {
  return !OUTSIDE_STREAM.has(type);
}

/**
 * What a primary says of itself and its VM. `machine` names the guest-visible hardware; both sides compare
 * it.
 */
export interface Hello {
  readonly protocol: number;
  readonly host: string;
  readonly machine: Readonly<Record<string, string | number>>;
  readonly ramBytes: number;
  readonly intervalMs: number;
  /** Names this protection: a UUID, made anew for each. "" from a primary of another protocol. */
  readonly session: string;
  /** How many paths the session may have; 0 from a primary of another protocol, as for `path`. */
  readonly paths: number;
  /** Which of them this is, from 0. */
  readonly path: number;
  /** The replicated disks. Nothing outside of them is ever written. */
  readonly disks: readonly DiskSize[];
}

/** A further path of a session, or one that was lost. */
export interface Join {
  readonly session: string;
  readonly path: number;
}

export interface DiskSize {
  /** Index in the configuration's disks, the same on both hosts. */
  readonly id: number;
  readonly bytes: number;
}

export interface Welcome {
  readonly host: string;
  /** The generation of which the backup knows. */
  readonly generation: number;
  /** What the backup's images are, one of each disk of HELLO. */
  readonly disks: readonly DiskImage[];
}

/**
 * What the backup knows of its image of a disk. `blank`: all zeroes; `unknown`: anything; `replica`: the disk
 * as it was in `session`, with all of it up to `durableEpoch`; `owner`: the VM ran on it here, since
 * `session` if one is named.
 */
export type DiskImageState = "blank" | "unknown" | "replica" | "owner";

export interface DiskImage {
  readonly id: number;
  readonly state: DiskImageState;
  readonly session?: string;
  readonly durableEpoch?: number;
  /** Where the image may differ from what state, session and epoch say: offset and length in bytes. */
  readonly suspects?: readonly (readonly [offset: number, length: number])[];
}

export interface Refuse {
  /** Stable and for programs, e.g. "busy". */
  readonly code: string;
  /** One sentence for the operator. */
  readonly message: string;
}

export interface RamBlock {
  readonly id: number;
  readonly name: string;
  /** A multiple of 4096. */
  readonly bytes: number;
}

/** What the backup must know of the VM's memory before the first page. */
export interface Layout {
  /** Which hypervisor's words the opaque parts are in: "qemu". */
  readonly hypervisor: string;
  /** Opaque here. QEMU: the migration stream's magic, version and configuration. */
  readonly header: Uint8Array;
  readonly blocks: readonly RamBlock[];
}

/**
 * Pages of guest memory, entry by entry in columns. `positions[i]` is where the 4096 bytes of a raw page
 * begin in `source`; it has no meaning for a zero page. Columns may be longer than `count`. `source` may lie
 * over shared memory.
 */
export interface PageList {
  readonly count: number;
  readonly blockIds: Uint16Array;
  readonly encodings: Uint8Array;
  readonly pageNumbers: Uint32Array;
  readonly positions: Uint32Array;
  readonly source: Uint8Array;
}

/** A piece of the device state of a checkpoint: bytes offset .. offset + bytes.length of `total`. */
export interface DeviceStatePiece {
  readonly total: number;
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** One change of a disk, in bytes. Later entries overwrite earlier ones. */
export interface DiskEntry {
  readonly disk: number;
  /**
   * DISK_WRITE, DISK_ZERO (reads as zeroes from now on) or DISK_DISCARD (contents do not matter any more).
   */
  readonly kind: DiskEntryKind;
  readonly offset: number;
  /** From 1 to 2^32 - 1. */
  readonly length: number;
  /** What a write writes, `length` bytes; may lie over shared memory. Not there for other kinds. */
  readonly data?: Uint8Array;
}

export type DiskEntryKind = typeof DISK_WRITE | typeof DISK_ZERO | typeof DISK_DISCARD;

/** `count` blocks of `blockBytes` from `offset` on; the last may be cut short by the end of the disk. */
export interface HashRange {
  readonly disk: number;
  readonly blockBytes: number;
  readonly offset: number;
  readonly count: number;
}

/** How many entries the DISK messages of an epoch have, and their digest. */
export interface DiskSummary {
  readonly entries: number;
  readonly digest: number;
}

/** What the checkpoint consists of, so that the backup can tell whether it has all of it. */
export interface CheckpointSummary {
  readonly pageEntries: number;
  readonly deviceStateBytes: number;
  readonly digest: number;
  readonly diskEntries: number;
  readonly diskDigest: number;
}

interface FromHeader {
  /** The sender's generation. */
  readonly generation: number;
  readonly epoch: number;
  readonly payloadCrc: number;
}

/** A message as received. Byte arrays in it belong to the receiver: nothing else writes to them. */
export type ReplicationMessage = FromHeader &
  (
    | { readonly type: "hello"; readonly vmId: string; readonly hello: Hello }
    | { readonly type: "welcome"; readonly welcome: Welcome }
    | { readonly type: "refuse"; readonly refuse: Refuse }
    | { readonly type: "layout"; readonly layout: Layout }
    | { readonly type: "pages"; readonly pages: PageList }
    | { readonly type: "device-state"; readonly piece: DeviceStatePiece }
    | { readonly type: "checkpoint-end"; readonly summary: CheckpointSummary }
    | { readonly type: "ack" }
    | { readonly type: "goodbye" }
    | { readonly type: "goodbye-ok" }
    | { readonly type: "takeover" }
    | { readonly type: "abort" }
    /** So many messages of the stream have been delivered, on all paths together. */
    | { readonly type: "heartbeat"; readonly received: number }
    /**
     * `payloadBytes` is what flow control counts and what keeping the entries costs: their data lies in the
     * payload.
     */
    | { readonly type: "disk"; readonly entries: readonly DiskEntry[]; readonly payloadBytes: number }
    | { readonly type: "disk-applied"; readonly totalBytes: number }
    | { readonly type: "disk-durable" }
    | { readonly type: "hash-ask"; readonly range: HashRange }
    /** 16 bytes a block, in order. */
    | { readonly type: "hashes"; readonly range: HashRange; readonly hashes: Uint8Array }
    | { readonly type: "handover" }
    /** `stoodDown`: the backup can never run the VM any more, whatever the arbiter has said. */
    | { readonly type: "handover-refused"; readonly message: string; readonly stoodDown: boolean }
    | { readonly type: "unable"; readonly message: string }
    /** A frame that has arrived for the guest's card `nic`. */
    | { readonly type: "input"; readonly nic: number; readonly frame: Uint8Array }
    | { readonly type: "join"; readonly vmId: string; readonly join: Join }
    | { readonly type: "joined" }
    /** The messages of the stream that follow on this path are numbered from here on. */
    | { readonly type: "carry"; readonly first: number }
  );

export type MessageOf<T extends MessageType> = Extract<ReplicationMessage, { readonly type: T }>;

export type ProtocolErrorCode =
  | "bad-magic"
  | "bad-version"
  | "bad-reserved"
  | "bad-header-checksum"
  | "bad-payload-checksum"
  | "wrong-vm"
  | "unknown-type"
  | "wrong-direction"
  | "wrong-order"
  | "bad-length"
  | "bad-epoch"
  | "bad-payload"
  | "bad-page"
  | "bad-disk"
  | "bad-checkpoint";

/** The peer broke the protocol, or something on the way broke its bytes. The connection cannot go on. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
  readonly code: ProtocolErrorCode;
  readonly field: string;

  constructor(
    code: ProtocolErrorCode,
    field: string,
    value: unknown,
    expected: string,
    options?: ErrorOptions,
  ) {
    super(`replication link: ${field} is ${shown(value)}, expected ${expected}`, options);
    this.code = code;
    this.field = field;
  }
}

/** A peer's value may be anything: it is quoted and cut before it goes into a sentence. */
function shown(value: unknown): string {
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

export function hex(value: number): string {
  return `0x${value.toString(16).padStart(8, "0")}`;
}
