// Messages of every type, fixed and arbitrary, for the tests of the codec.

import fc from "fast-check";
import type {
  DiskEntry,
  Hello,
  Join,
  Layout,
  PageList,
  ReplicationMessage,
  Role,
  Welcome,
} from "../../src/codec/replication.ts";
import {
  DISK_DISCARD,
  DISK_WRITE,
  DISK_ZERO,
  HEADER_BYTES,
  MAX_PATHS,
  PAGE_BYTES,
  PAGE_RAW,
  PAGE_ZERO,
  PROTOCOL_VERSION,
} from "../../src/codec/replication.ts";
import { encodeDisk, encodeHashAsk, encodeHashes } from "../../src/codec/replication-disk.ts";
import * as encode from "../../src/codec/replication-encode.ts";
import { type FrameIds, vmIdBytes } from "../../src/codec/replication-header.ts";
import { encodePages, PageFrameBuffers } from "../../src/codec/replication-pages.ts";
import { ReplicationParser } from "../../src/codec/replication-parser.ts";

export const VM_ID = "0b9f51c6-2a5e-4f63-9d6c-7f0a11d2c3e4";
export const IDS: FrameIds = { vmId: vmIdBytes(VM_ID), generation: 7 };

export const SESSION = "7d5f0c2e-94b1-4c53-8f5e-0d6a3b1c2f48";
const GIB = 2 ** 30;

export const HELLO: Hello = {
  protocol: PROTOCOL_VERSION,
  host: "host-a",
  machine: { machine: "pc-i440fx-7.2", vcpus: 2, "net0.mac": "52:54:00:12:34:56" },
  ramBytes: 262152 * 1024,
  intervalMs: 25,
  session: SESSION,
  paths: 1,
  path: 0,
  disks: [
    { id: 0, bytes: 10 * GIB },
    { id: 3, bytes: 5 * 1024 + 512 },
  ],
};

const WELCOME: Welcome = {
  host: "host-b",
  generation: 7,
  disks: [
    { id: 0, state: "replica", session: SESSION, durableEpoch: 2 ** 40, suspects: [[0, 512]] },
    { id: 3, state: "blank" },
  ],
};

export const LAYOUT: Layout = {
  hypervisor: "qemu",
  header: Uint8Array.of(0x51, 0x45, 0x56, 0x4d, 0, 0, 0, 3),
  blocks: [
    { id: 0, name: "pc.ram", bytes: 65536 * PAGE_BYTES },
    { id: 1, name: "0000:00:02.0/vga.vram", bytes: 4096 * PAGE_BYTES },
    { id: 900, name: "/rom@etc/acpi/tables", bytes: 32 * PAGE_BYTES },
  ],
};

/** Pages of LAYOUT: raw ones with contents made from `seed`, in the order of the source or not. */
export function pageList(
  pages: readonly { raw: boolean; block: number; page: number }[],
  seed = 1,
): PageList {
  const count = pages.length;
  const source = new Uint8Array(new SharedArrayBuffer(count * PAGE_BYTES));
  let x = seed;
  for (let i = 0; i < source.length; i += 97) {
    x = (x * 1103515245 + 12345) >>> 0;
    source[i] = x >>> 24;
  }
  return {
    count,
    blockIds: Uint16Array.from(pages, (p) => p.block),
    encodings: Uint8Array.from(pages, (p) => (p.raw ? PAGE_RAW : PAGE_ZERO)),
    pageNumbers: Uint32Array.from(pages, (p) => p.page),
    // Two neighbours, then a jump: runs and single pages both occur.
    positions: Uint32Array.from(pages, (_, i) => ((i + (seed % 3) * (i >> 1)) % count) * PAGE_BYTES),
    source,
  };
}

/**
 * Entries as data over shared memory, for a disk of HELLO; a write's data is made from its place and length.
 */
export function diskEntry(kind: DiskEntry["kind"], disk: number, offset: number, length: number): DiskEntry {
  if (kind !== DISK_WRITE) return { disk, kind, offset, length };
  const shared = new Uint8Array(new SharedArrayBuffer(length + 7));
  for (let i = 0; i < length; i++) shared[i + 7] = (offset + 31 * i) & 0xff;
  return { disk, kind, offset, length, data: shared.subarray(7) };
}

/** Entries in a comparable form. */
export function changesOf(entries: readonly DiskEntry[]): object[] {
  return entries.map(({ data, ...entry }) =>
    data === undefined ? entry : { ...entry, data: Buffer.from(data.slice()).toString("hex") },
  );
}

/** Entry by entry what a list says, comparable whatever it lies in. */
export function pagesOf(list: PageList): string[] {
  return Array.from({ length: list.count }, (_, i) => {
    const where = `${list.blockIds[i]}:${list.pageNumbers[i]}`;
    if (list.encodings[i] === PAGE_ZERO) return `${where} zero`;
    const at = list.positions[i]!;
    return `${where} ${Buffer.from(list.source.slice(at, at + PAGE_BYTES)).toString("base64")}`;
  });
}

export interface Sample {
  readonly frame: encode.Frame;
  /** Without payloadCrc; pages and bytes in a comparable form, see comparable(). */
  readonly expected: unknown;
  readonly to: Role;
}

const buffers = new PageFrameBuffers(0);
const PLAIN = { noNullPrototype: true };
const epochs = fc.oneof(fc.integer({ min: 0, max: 100 }), fc.maxSafeNat());
const names = fc
  .string({ minLength: 1, maxLength: 60, unit: "grapheme" })
  .filter((s) => Buffer.byteLength(s) <= 255);
const page = fc.record({
  raw: fc.boolean(),
  block: fc.constantFrom(0, 1),
  page: fc.integer({ min: 0, max: 4095 }),
});

function sample(to: Role, type: string, epoch: number, frame: encode.Frame, rest: object): Sample {
  return { to, frame, expected: { type, generation: IDS.generation, epoch, ...rest } };
}

function disksOf<T extends { id: number }>(one: fc.Arbitrary<T>): fc.Arbitrary<T[]> {
  return fc.uniqueArray(one, { maxLength: 8, selector: ({ id }) => id });
}

/** How many there may be, and one of them. */
const paths = fc
  .integer({ min: 1, max: MAX_PATHS })
  .chain((count) => fc.tuple(fc.constant(count), fc.integer({ min: 0, max: count - 1 })));
const hellosOfOnePath = fc.record(
  {
    protocol: fc.constant(PROTOCOL_VERSION),
    host: fc.string({ unit: "binary" }),
    machine: fc.dictionary(
      fc.string(),
      fc.oneof(
        fc.string(),
        fc.integer(),
        fc.double({ noNaN: true, noDefaultInfinity: true }).filter((n) => !Object.is(n, -0)),
      ),
      PLAIN,
    ),
    ramBytes: fc.maxSafeNat(),
    intervalMs: fc.double({ min: 0.001, max: 1e6, noNaN: true }),
    session: fc.uuid(),
    disks: disksOf(fc.record({ id: fc.integer({ min: 0, max: 65535 }), bytes: fc.maxSafeNat() }, PLAIN)),
  },
  PLAIN,
);
const hellos = fc
  .tuple(hellosOfOnePath, paths)
  .map(([hello, [count, path]]): Hello => ({ ...hello, paths: count, path }));
const layouts = fc.record({
  hypervisor: names,
  header: fc.uint8Array({ maxLength: 3000 }),
  blocks: fc
    .uniqueArray(fc.tuple(fc.integer({ min: 0, max: 65535 }), names, fc.integer({ min: 0, max: 2 ** 32 })), {
      maxLength: 40,
      selector: ([id]) => id,
    })
    .map((all) => all.map(([id, name, pages]) => ({ id, name: `${id}:${name}`, bytes: pages * PAGE_BYTES })))
    .filter((blocks) => blocks.every((b) => Buffer.byteLength(b.name) <= 255)),
});
const summaries = fc.record(
  {
    pageEntries: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    deviceStateBytes: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    digest: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    diskEntries: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    diskDigest: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  },
  PLAIN,
);
const welcomes = fc.record(
  {
    host: fc.string({ unit: "binary" }),
    generation: fc.maxSafeNat(),
    disks: disksOf(
      fc.record(
        {
          id: fc.integer({ min: 0, max: 65535 }),
          state: fc.constantFrom("blank", "unknown", "replica", "owner"),
          session: fc.uuid(),
          durableEpoch: fc.maxSafeNat(),
          suspects: fc.array(
            fc.tuple(fc.integer({ min: 0, max: 2 ** 52 }), fc.integer({ min: 1, max: 2 ** 51 })),
            { maxLength: 20 },
          ),
        },
        { ...PLAIN, requiredKeys: ["id", "state"] },
      ),
    ),
  },
  PLAIN,
);
/** Changes within disk 0 of HELLO. */
const changes = fc
  .array(
    fc.tuple(
      fc.constantFrom(DISK_WRITE, DISK_ZERO, DISK_DISCARD),
      fc.integer({ min: 0, max: 5 * GIB }),
      fc.integer({ min: 1, max: 3000 }),
    ),
    { minLength: 1, maxLength: 12 },
  )
  .map((all) => all.map(([kind, offset, length]) => diskEntry(kind, 0, offset, length)));
const ranges = fc.record(
  {
    disk: fc.constant(0),
    blockBytes: fc.constantFrom(512, 4096, 65536),
    offset: fc.integer({ min: 0, max: 9 * GIB }),
    count: fc.integer({ min: 1, max: 4096 }),
  },
  PLAIN,
);

/** Any one message but HELLO and JOIN, which have their place; pages fit LAYOUT. */
export const samplesInSession: fc.Arbitrary<Sample> = fc.oneof(
  fc.tuple(epochs, fc.array(page, { minLength: 1, maxLength: 12 }), fc.nat()).map(([epoch, pages, seed]) => {
    const list = pageList(pages, seed);
    const frame = encodePages(IDS, epoch, list, 0, list.count, buffers.take());
    return sample("backup", "pages", epoch, frame, { pages: pagesOf(list) });
  }),
  fc.tuple(epochs, fc.uint8Array({ minLength: 1, maxLength: 5000 })).map(([epoch, bytes]) => {
    const frame = [...encode.encodeDeviceState(IDS, epoch, bytes)][0]!;
    const piece = { total: bytes.length, offset: 0, bytes: Buffer.from(bytes).toString("hex") };
    return sample("backup", "device-state", epoch, frame, { piece });
  }),
  fc
    .tuple(epochs, summaries)
    .map(([epoch, summary]) =>
      sample("backup", "checkpoint-end", epoch, encode.encodeCheckpointEnd(IDS, epoch, summary), { summary }),
    ),
  epochs.map((epoch) => sample("primary", "ack", epoch, encode.encodeAck(IDS, epoch), {})),
  fc
    .tuple(fc.maxSafeNat(), fc.constantFrom<Role>("primary", "backup"))
    .map(([received, to]) => sample(to, "heartbeat", 0, encode.encodeHeartbeat(IDS, received), { received })),
  fc
    .tuple(fc.maxSafeNat(), fc.constantFrom<Role>("primary", "backup"))
    .map(([first, to]) => sample(to, "carry", 0, encode.encodeCarry(IDS, first), { first })),
  fc.constant(sample("primary", "joined", 0, encode.encodeJoined(IDS), {})),
  fc.constant(sample("backup", "goodbye", 0, encode.encodeGoodbye(IDS), {})),
  fc.constant(sample("primary", "goodbye-ok", 0, encode.encodeGoodbyeOk(IDS), {})),
  epochs.map((epoch) => sample("primary", "takeover", epoch, encode.encodeTakeover(IDS, epoch), {})),
  epochs.map((epoch) => sample("backup", "abort", epoch, encode.encodeAbort(IDS, epoch), {})),
  welcomes.map((welcome) => sample("primary", "welcome", 0, encode.encodeWelcome(IDS, welcome), { welcome })),
  fc.tuple(epochs, changes).map(([epoch, entries]) => diskSample(epoch, entries)),
  fc
    .maxSafeNat()
    .map((totalBytes) =>
      sample("primary", "disk-applied", 0, encode.encodeDiskApplied(IDS, totalBytes), { totalBytes }),
    ),
  epochs.map((epoch) => sample("primary", "disk-durable", epoch, encode.encodeDiskDurable(IDS, epoch), {})),
  epochs.map((epoch) => sample("backup", "handover", epoch, encode.encodeHandover(IDS, epoch), {})),
  ranges.map((range) => sample("backup", "hash-ask", 0, encodeHashAsk(IDS, range), { range })),
  ranges.map((range) => hashesSample({ ...range, count: 1 + (range.count % 40) })),
  fc
    .tuple(fc.nat({ max: 65_535 }), fc.uint8Array({ minLength: 24, maxLength: 3000 }))
    .map(([nic, bytes]) => inputSample(nic, bytes)),
  fc
    .tuple(fc.string({ unit: "binary" }), fc.boolean())
    .map(([message, stoodDown]) => handoverRefusedSample(message, stoodDown)),
  fc
    .string({ unit: "binary" })
    .map((message) => sample("primary", "unable", 0, encode.encodeUnable(IDS, message), { message })),
  fc
    .record({ code: fc.string(), message: fc.string({ unit: "binary" }) }, PLAIN)
    .map((refuse) => sample("primary", "refuse", 0, encode.encodeRefuse(IDS, refuse), { refuse })),
  layouts.map((layout) =>
    sample("backup", "layout", 0, encode.encodeLayout(IDS, layout), { layout: hexed(layout) }),
  ),
);

export const helloSamples: fc.Arbitrary<Sample> = hellos.map((hello) => helloSample(hello));

export function helloSample(hello: Hello): Sample {
  return sample("backup", "hello", 0, encode.encodeHello(IDS, hello), { vmId: VM_ID, hello });
}

export const joinSamples: fc.Arbitrary<Sample> = fc
  .tuple(fc.uuid(), paths)
  .map(([session, [, path]]) => joinSample({ session, path }));

function joinSample(join: Join): Sample {
  return sample("backup", "join", 0, encode.encodeJoin(IDS, join), { vmId: VM_ID, join });
}

/** What a backup may hear on a further path of a session, of which its parser is not told. */
export function onAnotherPath(): Sample[] {
  return [
    joinSample({ session: SESSION, path: 7 }),
    sample("backup", "carry", 0, encode.encodeCarry(IDS, 2 ** 33 + 1), { first: 2 ** 33 + 1 }),
    sample("backup", "goodbye", 0, encode.encodeGoodbye(IDS), {}),
  ];
}

export function layoutSample(layout: Layout): Sample {
  return sample("backup", "layout", 0, encode.encodeLayout(IDS, layout), { layout: hexed(layout) });
}

export function diskSample(epoch: number, entries: readonly DiskEntry[]): Sample {
  const frame = encodeDisk(IDS, epoch, entries);
  const payloadBytes = frame.byteLength - HEADER_BYTES;
  return sample("backup", "disk", epoch, frame, { entries: changesOf(entries), payloadBytes });
}

function hashesSample(range: Parameters<typeof encodeHashes>[1]): Sample {
  const hashes = Buffer.alloc(16 * range.count, `hashes at ${range.offset}`);
  const frame = encodeHashes(IDS, range, hashes);
  return sample("primary", "hashes", 0, frame, { range, hashes: hashes.toString("hex") });
}

function handoverRefusedSample(message: string, stoodDown: boolean): Sample {
  const frame = encode.encodeHandoverRefused(IDS, message, stoodDown);
  return sample("primary", "handover-refused", 0, frame, { message, stoodDown });
}

function inputSample(nic: number, bytes: Uint8Array): Sample {
  const expected = { nic, frame: Buffer.from(bytes).toString("hex") };
  return sample("backup", "input", 0, encode.encodeInput(IDS, nic, bytes), expected);
}

function hexed(layout: Layout): object {
  return { ...layout, header: Buffer.from(layout.header).toString("hex") };
}

/** One fixed message of every type but JOIN, in an order in which one side may receive them. */
export function oneOfEach(to: Role): Sample[] {
  const list = pageList([
    { raw: true, block: 0, page: 5 },
    { raw: false, block: 1, page: 6 },
    { raw: true, block: 900, page: 31 },
  ]);
  const state = Buffer.from("device state of pc-i440fx");
  const summary = {
    pageEntries: 3,
    deviceStateBytes: state.length,
    digest: 0xfedcba98,
    diskEntries: 3,
    diskDigest: 0x89abcdef,
  };
  const pages = encodePages(IDS, 41, list, 0, 3, buffers.take());
  const piece = { total: state.length, offset: 0, bytes: state.toString("hex") };
  const heartbeat = encode.encodeHeartbeat(IDS, 2 ** 40);
  const welcome = WELCOME;
  const message = "the disk under /var/lib/remus is full";
  const range = { disk: 3, blockBytes: 4096, offset: 0, count: 2 };
  const refuse = { code: "busy", message: "host-b is the backup of another primary" };
  const all = [
    helloSample(HELLO),
    layoutSample(LAYOUT),
    sample("backup", "pages", 41, pages, { pages: pagesOf(list) }),
    sample("backup", "device-state", 41, [...encode.encodeDeviceState(IDS, 41, state)][0]!, { piece }),
    sample("backup", "checkpoint-end", 41, encode.encodeCheckpointEnd(IDS, 41, summary), { summary }),
    diskSample(42, [
      diskEntry(DISK_WRITE, 0, 4 * GIB + 512, 700),
      diskEntry(DISK_ZERO, 3, 512, 1024),
      diskEntry(DISK_WRITE, 3, 5 * 1024, 512),
      diskEntry(DISK_DISCARD, 0, 5 * GIB, 2 ** 32 - 1),
    ]),
    sample("backup", "hash-ask", 0, encodeHashAsk(IDS, range), { range }),
    sample("backup", "handover", 41, encode.encodeHandover(IDS, 41), {}),
    sample("backup", "abort", 42, encode.encodeAbort(IDS, 42), {}),
    sample("backup", "goodbye", 0, encode.encodeGoodbye(IDS), {}),
    sample("primary", "welcome", 0, encode.encodeWelcome(IDS, welcome), { welcome }),
    sample("primary", "refuse", 0, encode.encodeRefuse(IDS, refuse), { refuse }),
    sample("primary", "ack", 2 ** 53 - 1, encode.encodeAck(IDS, 2 ** 53 - 1), {}),
    sample("primary", "goodbye-ok", 0, encode.encodeGoodbyeOk(IDS), {}),
    sample("primary", "takeover", 41, encode.encodeTakeover(IDS, 41), {}),
    sample("primary", "disk-applied", 0, encode.encodeDiskApplied(IDS, 2 ** 45 + 1), {
      totalBytes: 2 ** 45 + 1,
    }),
    sample("primary", "disk-durable", 40, encode.encodeDiskDurable(IDS, 40), {}),
    hashesSample(range),
    handoverRefusedSample(message, true),
    sample("primary", "unable", 0, encode.encodeUnable(IDS, message), { message }),
    inputSample(7, Buffer.alloc(24, 0x5a)),
    sample("primary", "joined", 0, encode.encodeJoined(IDS), {}),
    sample(to, "carry", 0, encode.encodeCarry(IDS, 7), { first: 7 }),
    sample(to, "heartbeat", 0, heartbeat, { received: 2 ** 40 }),
  ];
  return all.filter((one) => one.to === to);
}

export function wire(samples: readonly { frame: encode.Frame }[]): Buffer {
  return Buffer.concat(samples.flatMap((one) => [...one.frame.parts]));
}

/** A received message in the form of Sample.expected. */
export function comparable(message: ReplicationMessage): unknown {
  const { payloadCrc: _, ...rest } = message;
  if (message.type === "pages") return { ...rest, pages: pagesOf(message.pages) };
  if (message.type === "layout") return { ...rest, layout: hexed(message.layout) };
  if (message.type === "disk") return { ...rest, entries: changesOf(message.entries) };
  if (message.type === "hashes") return { ...rest, hashes: Buffer.from(message.hashes).toString("hex") };
  if (message.type === "input") return { ...rest, frame: Buffer.from(message.frame).toString("hex") };
  if (message.type === "device-state") {
    return { ...rest, piece: { ...message.piece, bytes: Buffer.from(message.piece.bytes).toString("hex") } };
  }
  return rest;
}

/** What a parser makes of the chunks. */
export function parse(receiver: Role, chunks: readonly Uint8Array[]): unknown[] {
  const messages: unknown[] = [];
  const onMessage = (message: ReplicationMessage) => messages.push(comparable(message));
  const parser = new ReplicationParser({ receiver, vmId: IDS.vmId, onMessage });
  for (const chunk of chunks) parser.push(chunk);
  return messages;
}
