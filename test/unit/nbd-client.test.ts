/** Our NBD client against our NBD server over a unix socket, and against servers that go wrong. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import type { Socket } from "node:net";
import { type TestContext, test } from "node:test";
import fc from "fast-check";
import { TRANSMISSION } from "../../src/codec/nbd.ts";
import { encodeDataHeader } from "../../src/codec/nbd-messages.ts";
import { NbdClient, NbdError } from "../../src/disk/nbd-client.ts";
import { attach, BLOCK, exportOf, listen, MemoryDisk } from "./nbd-samples.ts";

const DISK_BYTES = 256 * BLOCK;
const CONTEXTS = ["base:allocation"];

async function connected(t: TestContext, disk: MemoryDisk) {
  const retries: (() => void)[] = [];
  const path = await listen(t, (socket) => retries.push(attach(disk, socket)));
  const contexts = disk.export.blockStatus ? CONTEXTS : [];
  const client = await NbdClient.connect({ path, exportName: disk.export.name, contexts });
  return { client, path, retry: () => retries.at(-1)!() };
}

async function refusal(promise: Promise<unknown>): Promise<NbdError> {
  const error = await promise.then(
    () => assert.fail("this should have been refused"),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof NbdError, `${error}`);
  return error;
}

test("client and server agree on a disk whatever is done to it, with many requests under way", async (t) => {
  const disk = new MemoryDisk(exportOf(DISK_BYTES, { blockStatus: true, maximumBlock: 8192 }));
  const { client } = await connected(t, disk);
  assert.deepEqual(
    [client.bytes, client.minimumBlock, client.preferredBlock, client.maximumBlock, client.readOnly],
    [DISK_BYTES, BLOCK, 4096, 8192, false],
  );
  assert.ok((client.flags & TRANSMISSION.unfragmented) !== 0);
  const model = Buffer.alloc(DISK_BYTES);
  const range = fc
    .tuple(fc.nat(255), fc.integer({ min: 1, max: 64 }))
    .map(([block, count]) => [block * BLOCK, Math.min(count, 256 - block) * BLOCK] as const);
  const step = fc.tuple(fc.constantFrom("write", "zero", "trim", "read", "status", "flush"), range);
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      // Our server carries them out in the order in which they were sent.
      const checks = steps.map(async ([kind, [offset, length]]) => {
        const content = model.subarray(offset, offset + length);
        if (kind === "write") {
          const data = randomBytes(length);
          content.set(data);
          await client.write(offset, [data.subarray(0, 100), data.subarray(100, 512), data.subarray(512)]);
        } else if (kind === "zero" || kind === "trim") {
          content.fill(0);
          await client[kind](offset, length);
        } else if (kind === "read") {
          const expected = Buffer.from(content);
          assert.ok(expected.equals(await client.read(offset, length)));
        } else if (kind === "flush") await client.flush();
        else {
          const expected = Buffer.from(content);
          let at = 0;
          for (const extent of await client.blockStatus(offset, length, "base:allocation")) {
            const zero = expected.subarray(at, at + extent.length).every((byte) => byte === 0);
            assert.equal(extent.flags, zero ? 3 : 0);
            at += extent.length;
          }
          assert.equal(at, length);
        }
      });
      await Promise.all(checks);
      assert.ok(model.equals(disk.content));
    }),
    { numRuns: 60 },
  );
  await client.disconnect();
  assert.deepEqual(
    disk.ends.map(({ clean }) => clean),
    [true],
  );
  assert.equal((await client.closed).expected, true);
});

test("longer reads and writes than the server takes are split; zeroes and trims go as far as 32 bits", async (t) => {
  const disk = new MemoryDisk(exportOf(3 * 8192 + BLOCK, { maximumBlock: 8192 }));
  const { client } = await connected(t, disk);
  const data = randomBytes(DISK_BYTES).subarray(0, 3 * 8192 + BLOCK);
  await client.write(0, [data.subarray(0, 8000), data.subarray(8000, 8500), data.subarray(8500)]);
  assert.ok(data.equals(disk.content));
  assert.ok(data.equals(await client.read(0, data.length)));
  const lengths = (kind: string) =>
    disk.requests.filter((one) => one.kind === kind).map(({ length }) => length);
  assert.deepEqual(lengths("write"), [8192, 8192, 8192, BLOCK]);
  assert.deepEqual(lengths("read"), [8192, 8192, 8192, BLOCK]);

  const terabyte = 2 ** 40;
  const huge = new MemoryDisk(exportOf(terabyte), 0);
  huge.onTaken = (request, session) => session.answer(request);
  const far = await connected(t, huge);
  await far.client.zero(4096, terabyte - 4096, { noHole: true });
  await far.client.trim(0, terabyte);
  const most = 2 ** 32 - 4096;
  for (const kind of ["zero", "trim"] as const) {
    const all = huge.requests.filter((one) => one.kind === kind);
    let at = all[0]!.offset;
    for (const { offset, length, noHole } of all) {
      assert.ok(offset === at && length <= most && noHole === (kind === "zero"));
      at += length;
    }
    assert.equal(at, terabyte);
  }
});

test("a server that stalls in the middle of a write goes on where it stopped", async (t) => {
  const disk = new MemoryDisk(exportOf(1 << 20));
  const { client, retry } = await connected(t, disk);
  let room = 100_000;
  let stopped = Promise.withResolvers<void>();
  disk.appetite = (offered) => {
    const taken = Math.min(offered, room);
    room -= taken;
    if (taken < offered) stopped.resolve();
    return taken;
  };
  const data = randomBytes(1 << 20);
  let answered = false;
  const written = client.write(0, data).then(() => {
    answered = true;
  });
  await stopped.promise;
  assert.ok(!answered && data.subarray(0, 100_000).equals(disk.content.subarray(0, 100_000)));
  assert.ok(disk.content.subarray(100_000).every((byte) => byte === 0));
  stopped = Promise.withResolvers();
  room = Number.POSITIVE_INFINITY;
  retry();
  await written;
  assert.ok(data.equals(disk.content));
});

test("an error names the export, what was done and where, and concerns that request alone", async (t) => {
  const disk = new MemoryDisk(exportOf(DISK_BYTES));
  const { client, path } = await connected(t, disk);
  disk.onTaken = (request, session) => {
    if (request.kind === "write" && request.offset === 4096)
      session.answer(request, "ENOSPC", "the image is full");
    else disk.answer(request, session);
  };
  const others = [client.write(0, Buffer.alloc(512, 1)), client.write(8192, Buffer.alloc(512, 2))];
  const error = await refusal(client.write(4096, Buffer.alloc(1024)));
  assert.equal(error.errno, "ENOSPC");
  assert.equal(
    error.message,
    `NBD export "disk0" at ${path}: write of 1024 bytes at 4096 failed with ENOSPC: the image is full`,
  );
  await Promise.all(others);
  await client.flush();
});

test("what can be known to be wrong is not sent", async (t) => {
  const disk = new MemoryDisk(exportOf(DISK_BYTES));
  const { client } = await connected(t, disk);
  const rows: [string, Promise<unknown>][] = [
    ["EINVAL", client.read(DISK_BYTES - 512, 1024)],
    ["EINVAL", client.read(-512, 512)],
    ["EINVAL", client.write(100, Buffer.alloc(512))],
    ["EINVAL", client.zero(0, 100)],
    ["EINVAL", client.trim(0, 2 ** 54)],
    ["EINVAL", client.blockStatus(0, 512, "base:allocation")],
  ];
  for (const [errno, promise] of rows) assert.equal((await refusal(promise)).errno, errno);
  assert.equal((await client.read(0, 0)).length, 0);
  await client.write(0, []);
  assert.deepEqual(disk.requests, []);
});

test("an export that is not there, a socket that is not there, a server that says nothing", async (t) => {
  const disk = new MemoryDisk(exportOf(DISK_BYTES));
  const path = await listen(t, (socket) => attach(disk, socket));
  const unknown = await refusal(NbdClient.connect({ path, exportName: "disk7" }));
  assert.equal(unknown.errno, "ENOENT");
  assert.match(unknown.message, /NBD export "disk7" at .*: it refuses go: there is no export "disk7"/);
  const contexts = await refusal(NbdClient.connect({ path, exportName: "disk0", contexts: CONTEXTS }));
  assert.equal(contexts.errno, "ENOTSUP");
  assert.match(contexts.message, /no metadata context "base:allocation"/);
  const nothing = await refusal(NbdClient.connect({ path: `${path}.not`, exportName: "disk0" }));
  assert.equal(nothing.errno, "ENOTCONN");
  assert.match(nothing.message, /ENOENT/);
  const silent = await listen(t, () => {});
  const late = await refusal(NbdClient.connect({ path: silent, exportName: "disk0", timeoutMs: 50 }));
  assert.equal(late.errno, "ENOTCONN");
  assert.match(late.message, /within 50 ms/);
  const other = await listen(t, (socket) => socket.end("HTTP/1.1 400 Bad Request\r\n"));
  assert.equal((await refusal(NbdClient.connect({ path: other, exportName: "disk0" }))).errno, "EPROTO");
  const closing = await listen(t, (socket) => socket.end());
  assert.equal((await refusal(NbdClient.connect({ path: closing, exportName: "disk0" }))).errno, "ENOTCONN");
});

/**
 * A client whose server, once it has seen a request for so many bytes, does something else than it should.
 */
async function withRogue(t: TestContext, rogue: (socket: Socket) => void): Promise<NbdClient> {
  const disk = new MemoryDisk(exportOf(DISK_BYTES));
  let last: Socket | undefined;
  const path = await listen(t, (socket) => {
    last = socket;
    attach(disk, socket);
  });
  const client = await NbdClient.connect({ path, exportName: "disk0" });
  disk.onTaken = () => rogue(last!);
  return client;
}

test("when the connection goes, all that is under way fails, and so does all that comes", async (t) => {
  const client = await withRogue(t, (socket) => socket.destroy());
  const under = [client.read(0, 512), client.write(0, Buffer.alloc(512)), client.flush()];
  for (const promise of under) assert.equal((await refusal(promise)).errno, "ENOTCONN");
  const closed = await client.closed;
  assert.equal(closed.expected, false);
  assert.match(closed.message, /NBD export "disk0" at .*: the server closed the connection/);
  const later = await refusal(client.read(0, 512));
  assert.match(later.message, /^read of 512 bytes at 0: NBD export "disk0"/);
  await client.disconnect();
});

test("a server that breaks the protocol is left, with EPROTO for what was under way", async (t) => {
  const client = await withRogue(t, (socket) => socket.write(encodeDataHeader(0n, 0, 2 ** 31)));
  const error = await refusal(client.read(0, 512));
  assert.equal(error.errno, "EPROTO");
  assert.match(error.message, /lie outside of what was to be read/);
  assert.equal((await client.closed).expected, false);
});

test("disconnect waits for what is under way, refuses what comes, and does not wait for a server that hangs", async (t) => {
  const disk = new MemoryDisk(exportOf(DISK_BYTES));
  const { client } = await connected(t, disk);
  const waiting = Promise.withResolvers<() => void>();
  disk.onTaken = (request, session) => waiting.resolve(() => disk.answer(request, session));
  const reading = client.read(0, 512);
  const leaving = client.disconnect();
  const again = client.disconnect();
  assert.match((await refusal(client.flush())).message, /is being closed/);
  (await waiting.promise)();
  assert.equal((await reading).length, 512);
  await Promise.all([leaving, again]);
  assert.equal(disk.ends[0]?.clean, true);

  const hung = await withRogue(t, () => {});
  const pending = refusal(hung.flush());
  const gone = hung.disconnect();
  hung.destroy("the backup gives up");
  await gone;
  assert.match((await pending).message, /flush: NBD export "disk0" at .*: the backup gives up/);
  assert.equal((await hung.closed).expected, true);
});

test("what a server does not offer is refused here", async (t) => {
  const disk = new MemoryDisk(exportOf(DISK_BYTES));
  const path = await listen(t, (socket) => {
    const write = socket.write.bind(socket);
    // The flags in its only info reply: none but "these are flags".
    const poor = (bytes: Uint8Array) => {
      if (bytes.length === 32) Buffer.from(bytes.buffer, bytes.byteOffset, 32).writeUInt16BE(1, 30);
      return write(bytes);
    };
    socket.write = poor as typeof socket.write;
    attach(disk, socket);
  });
  const client = await NbdClient.connect({ path, exportName: "disk0" });
  assert.equal(client.flags, TRANSMISSION.hasFlags);
  for (const promise of [client.zero(0, 512), client.trim(0, 512), client.flush()])
    assert.equal((await refusal(promise)).errno, "ENOTSUP");
  assert.equal((await client.read(0, 512)).length, 512);
});
