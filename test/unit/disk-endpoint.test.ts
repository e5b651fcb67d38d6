/**
 * The disk thread as QEMU sees it: an NBD server behind a socket pair. Here an NBD client of ours is in
 * QEMU's place.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { TRANSMISSION } from "../../src/codec/nbd.ts";
import { DISK_DISCARD, DISK_WRITE, DISK_ZERO } from "../../src/codec/replication.ts";
import { DiskEndpoint } from "../../src/disk/endpoint.ts";
import { readIntents } from "../../src/disk/intent-log.ts";
import { NbdClient } from "../../src/disk/nbd-client.ts";
import { type RingEntry, WriteRing } from "../../src/disk/write-ring.ts";
import { EpochCell } from "../../src/memory/epoch-cell.ts";

const KIB = 1024;
const MIB = 1 << 20;
const DISK_BYTES = 64 * MIB;
const DEADLINE = { timeout: 30_000 };

/** A client on a descriptor of a socket pair: the client can only go to a path, so there is a bridge. */
async function clientOn(t: TestContext, directory: string, disk: number, fd: number) {
  const path = join(directory, `${fd}.sock`);
  const end = new Socket({ fd, readable: true, writable: true });
  const bridge = createServer((socket) => {
    for (const one of [socket, end]) one.on("error", () => {});
    socket.pipe(end).pipe(socket);
  });
  await new Promise<void>((resolve) => bridge.listen(path, resolve));
  const client = await NbdClient.connect({ path, exportName: `disk${disk}` });
  bridge.close();
  t.after(() => client.destroy("the test is over"));
  return client;
}

interface Taken extends Omit<RingEntry, "data"> {
  readonly data: Buffer;
}

async function setUp(t: TestContext, { ringBytes = 1 * MIB, disks = 1 } = {}) {
  const directory = mkdtempSync(join(tmpdir(), "remus-endpoint-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const ring = WriteRing.ofSize(ringBytes);
  const epochCell = new EpochCell();
  const failed = Promise.withResolvers<string>();
  const failures: string[] = [];
  const grown = Promise.withResolvers<{ path: string; markedBytes: number }>();
  let bell: (() => void) | undefined;
  const endpoint = await DiskEndpoint.start({
    disks: Array.from({ length: disks }, (_, disk) => ({ disk, bytes: DISK_BYTES })),
    ring,
    epochCell,
    onWritten: () => bell?.(),
    onGrown: (path, markedBytes) => grown.resolve({ path, markedBytes }),
    onFailed: (reason) => {
      failures.push(reason);
      failed.resolve(reason);
    },
  });
  t.after(() => endpoint.stop());
  const clients: NbdClient[] = [];
  for (const [disk, fd] of endpoint.descriptors) clients.push(await clientOn(t, directory, disk, fd));
  /** Waits for entries, and takes all that there are. */
  const take = async (): Promise<Taken[]> => {
    while (ring.listen())
      await new Promise<void>((resolve) => {
        bell = resolve;
      });
    const count = ring.published - ring.freed;
    const all = Array.from({ length: count }, (_, ahead) => {
      const entry = ring.peek(ahead)!;
      return { ...entry, data: Buffer.from(entry.data ?? []) };
    });
    ring.free(count);
    return all;
  };
  /** Takes until so many bytes of data have come. */
  const takeBytes = async (bytes: number): Promise<Taken[]> => {
    const all: Taken[] = [];
    for (let sum = 0; sum < bytes; ) {
      const more = await take();
      sum += more.reduce((count, { data }) => count + data.length, 0);
      all.push(...more);
    }
    return all;
  };
  return {
    clients,
    directory,
    endpoint,
    epochCell,
    failed: failed.promise,
    failures,
    grown: grown.promise,
    ring,
    take,
    takeBytes,
  };
}

function contents(length: number, seed: number): Buffer {
  return Buffer.alloc(
    length,
    Uint8Array.from({ length: 1009 }, (_, i) => (i * (seed + 7)) >> 2),
  );
}

function sizeOf(entries: readonly Taken[]): number {
  return entries.reduce((sum, { data }) => sum + data.length, 0);
}

/** Whether a promise is still pending after the thread has done something else several times. */
async function stillWaits(promise: Promise<unknown>, elsewhere: () => Promise<unknown>): Promise<boolean> {
  let waits = true;
  promise.then(() => {
    waits = false;
  });
  for (let n = 0; n < 10; n++) await elsewhere();
  return waits;
}

test(
  "what the guest writes is in the ring before it is answered, with the epoch that runs",
  DEADLINE,
  async (t) => {
    const { clients, epochCell, ring, take } = await setUp(t);
    const [client] = clients as [NbdClient];
    assert.equal(client.bytes, DISK_BYTES);
    assert.equal(client.minimumBlock, 512);
    assert.equal(client.flags & TRANSMISSION.flush, 0, "QEMU would flush at each checkpoint, in the pause");
    const data = contents(8192, 1);
    await client.write(4096, data);
    assert.equal(ring.published, 1, "answered, and not there");
    const first = await take();
    epochCell.set(1);
    await client.zero(MIB, 2 * MIB);
    await client.trim(8 * MIB, 512);
    assert.equal(ring.published, 3, "answered, and not there");
    epochCell.set(2);
    await client.write(DISK_BYTES - 512, data.subarray(0, 512));
    const rest = await take();
    const nothing = Buffer.alloc(0);
    assert.deepEqual(
      [...first, ...rest],
      [
        { disk: 0, kind: DISK_WRITE, offset: 4096, length: 8192, epoch: 0, data },
        { disk: 0, kind: DISK_ZERO, offset: MIB, length: 2 * MIB, epoch: 1, data: nothing },
        { disk: 0, kind: DISK_DISCARD, offset: 8 * MIB, length: 512, epoch: 1, data: nothing },
        {
          disk: 0,
          kind: DISK_WRITE,
          offset: DISK_BYTES - 512,
          length: 512,
          epoch: 2,
          data: data.subarray(0, 512),
        },
      ],
    );
  },
);

test("reading is refused, and disturbs nobody", DEADLINE, async (t) => {
  const { clients, failures, take } = await setUp(t);
  const [client] = clients as [NbdClient];
  await assert.rejects(client.read(0, 512), { errno: "EPERM" });
  await client.write(0, Buffer.alloc(512));
  assert.equal((await take()).length, 1);
  assert.deepEqual(failures, []);
});

test(
  "I6: a full ring makes the guest wait; with room it goes on, and nothing is lost or cut",
  DEADLINE,
  async (t) => {
    const { clients, takeBytes } = await setUp(t, { ringBytes: 64 * KIB });
    const [client] = clients as [NbdClient];
    const data = contents(3 * MIB, 2);
    const writing = client.write(512, data);
    const taken = await takeBytes(data.length);
    await writing;
    assert.ok(Buffer.concat(taken.map((entry) => entry.data)).equals(data));
    let at = 512;
    for (const { offset, length } of taken) {
      assert.equal(offset, at);
      at += length;
    }
  },
);

test("two disks side by side: what one writes does not cut the other's sectors", DEADLINE, async (t) => {
  const { clients, takeBytes } = await setUp(t, { disks: 2, ringBytes: 1 * MIB });
  const images = clients.map(() => Buffer.alloc(4 * MIB));
  const data = clients.map((_, disk) => contents(4 * MIB, disk));
  const writing = clients.flatMap((client, disk) =>
    Array.from({ length: 16 }, (_, n) => {
      const at = n * 256 * KIB;
      return client.write(at, data[disk]!.subarray(at, at + 256 * KIB));
    }),
  );
  const taken = await takeBytes(8 * MIB);
  await Promise.all(writing);
  for (const { disk, offset, length, data } of taken) {
    assert.ok(offset % 512 === 0 && length % 512 === 0, `${length} bytes at ${offset} of disk${disk}`);
    data.copy(images[disk]!, offset);
  }
  for (const [disk, image] of images.entries()) assert.ok(image.equals(data[disk]!), `disk${disk}`);
});

test(
  "at the end of an epoch the reserve is the guest's: QEMU drains its disks with the VM stopped",
  DEADLINE,
  async (t) => {
    const { clients, epochCell, ring } = await setUp(t, { ringBytes: 192 * KIB, disks: 2 });
    const [one, other] = clients as [NbdClient, NbdClient];
    epochCell.set(1);
    const writing = one.write(0, contents(190 * KIB, 3));
    const elsewhere = () => other.zero(0, 512);
    assert.ok(await stillWaits(writing, elsewhere), "two thirds are for ordinary times");
    assert.ok(ring.roomBytes >= 64 * KIB - 512);
    epochCell.end();
    await writing;
  },
);

test(
  "I6: an epoch writes no more than the ring holds, however quickly that is shipped; the next may again",
  DEADLINE,
  async (t) => {
    const { clients, epochCell, takeBytes } = await setUp(t, { ringBytes: 128 * KIB, disks: 2 });
    const [one, other] = clients as [NbdClient, NbdClient];
    const elsewhere = () => other.zero(0, 512);
    // Epoch 0 is applied as it comes.
    const first = one.write(0, contents(MIB, 4));
    await takeBytes(MIB);
    await first;
    epochCell.set(1);
    // So that no piece of what follows ends where the limit is.
    await one.write(MIB, contents(KIB, 4));
    const writing = one.write(0, contents(511 * KIB, 4));
    assert.equal(sizeOf(await takeBytes(128 * KIB)), 128 * KIB);
    assert.ok(await stillWaits(writing, elsewhere));
    for (let epoch = 2; epoch <= 4; epoch++) {
      epochCell.set(epoch);
      const all = await takeBytes(128 * KIB);
      assert.equal(sizeOf(all), 128 * KIB);
      assert.deepEqual(
        new Set(all.filter(({ kind }) => kind === DISK_WRITE).map((entry) => entry.epoch)),
        new Set([epoch]),
      );
    }
    await writing;
  },
);

test(
  "I5: once the backup is gone an epoch may be as long as it likes: nobody will end it",
  DEADLINE,
  async (t) => {
    const { clients, epochCell, ring, takeBytes } = await setUp(t, { ringBytes: 128 * KIB, disks: 2 });
    const [one, other] = clients as [NbdClient, NbdClient];
    epochCell.set(1);
    const writing = one.write(0, contents(MIB, 5));
    await takeBytes(128 * KIB);
    assert.ok(await stillWaits(writing, () => other.zero(0, 512)));
    ring.abandon();
    await takeBytes(MIB - 128 * KIB);
    await writing;
  },
);

test("I2: a connection that ends is told, and no write counts from then on", DEADLINE, async (t) => {
  const { clients, failed, failures, ring } = await setUp(t, { disks: 2 });
  assert.equal(ring.broken, false);
  clients[1]!.destroy("QEMU has crashed");
  assert.match(await failed, /^disk1: /);
  assert.equal(ring.broken, true);
  assert.equal(failures.length, 1);
});

test("who stops the thread is not told that its connections end", DEADLINE, async (t) => {
  const { clients, endpoint, failures } = await setUp(t);
  const [client] = clients as [NbdClient];
  await client.write(0, Buffer.alloc(512));
  await endpoint.stop();
  await client.closed;
  assert.deepEqual(failures, []);
  await assert.rejects(client.write(0, Buffer.alloc(512)), { errno: "ENOTCONN" });
});

test("what cannot be served is said at the start", DEADLINE, async () => {
  const start = DiskEndpoint.start({
    disks: [{ disk: 0, bytes: 1000 }],
    ring: WriteRing.ofSize(4096),
    epochCell: new EpochCell(),
    onWritten: () => {},
    onGrown: () => {},
    onFailed: () => {},
  });
  await assert.rejects(start, /the disk thread: .*1000.*512/);
});

test(
  "a log of intents names what is announced before that is answered, and says when it has grown",
  DEADLINE,
  async (t) => {
    const { directory, endpoint, failures, grown } = await setUp(t);
    const path = join(directory, "vm1-disk0.intent-1");
    const log = { disk: 0, bytes: DISK_BYTES, path, session: "session-1" };
    const client = await clientOn(t, directory, 0, await endpoint.log(log));
    await client.write(3 * 64 * KIB, Buffer.alloc(4096, 1));
    await client.zero(MIB - 512, 1024);
    assert.deepEqual(await readIntents(directory, "vm1", 0, "session-1"), [
      { from: 192 * KIB, to: 256 * KIB },
      { from: MIB - 64 * KIB, to: MIB },
      { from: MIB, to: MIB + 64 * KIB },
    ]);
    await client.zero(16 * MIB, 8 * MIB);
    // The first that is told: the few before were not worth it.
    assert.deepEqual(await grown, { path, markedBytes: 8 * MIB + 3 * 64 * KIB });
    endpoint.retire(path);
    await client.disconnect();
    await endpoint.stop();
    assert.deepEqual(failures, []);
  },
);

test(
  "a log whose connection ends before it was let go is a failure; one that cannot be kept is none at all",
  DEADLINE,
  async (t) => {
    const { directory, endpoint, failed, ring } = await setUp(t);
    const log = (path: string) => endpoint.log({ disk: 0, bytes: DISK_BYTES, path, session: "session-1" });
    const client = await clientOn(t, directory, 0, await log(join(directory, "vm1-disk0.intent-1")));
    client.destroy("QEMU has crashed");
    assert.match(await failed, /write-intent log of disk0/);
    assert.equal(ring.broken, true);
    await assert.rejects(log(join(directory, "nowhere", "vm1-disk0.intent-2")), /the disk thread: .*ENOENT/);
  },
);
