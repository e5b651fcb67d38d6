/**
 * Our NBD server before other people's clients (libnbd, QEMU, nbdkit), our client before other people's
 * servers. The bytes are checked on the side that is not ours.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { connect, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { COMMAND } from "../../src/codec/nbd.ts";
import { encodeRequest } from "../../src/codec/nbd-messages.ts";
import type { NbdExport } from "../../src/codec/nbd-server.ts";
import { DISK_DISCARD, DISK_WRITE, DISK_ZERO } from "../../src/codec/replication.ts";
import { DiskEndpoint } from "../../src/disk/endpoint.ts";
import { NbdClient, NbdError } from "../../src/disk/nbd-client.ts";
import { WriteRing } from "../../src/disk/write-ring.ts";
import { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import { EpochCell } from "../../src/memory/epoch-cell.ts";
import { attach, entering, exportOf, listen, MemoryDisk } from "../unit/nbd-samples.ts";

const MIB = 1 << 20;
const execute = promisify(execFile);

/** Runs a tool to its end; what it says on stdout. */
async function run(program: string, ...args: string[]): Promise<string> {
  return (await execute(program, args, { timeout: 14_000, maxBuffer: 4 * MIB })).stdout;
}

async function scratch(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "remus-nbd-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/**
 * Starts a server that goes into the background once it serves, and ends it with the test. `args` make it
 * write `pidFile`.
 */
async function serve(t: TestContext, pidFile: string, program: string, ...args: string[]): Promise<void> {
  // Its own children must not keep our pipes open.
  await run("sh", "-c", '"$@" >/dev/null', "sh", program, ...args);
  const pid = Number(await readFile(pidFile, "utf8"));
  t.after(() => process.kill(pid));
}

async function ours(t: TestContext, bytes: number, more: Partial<NbdExport> = {}) {
  const disk = new MemoryDisk(exportOf(bytes, { blockStatus: true, multipleConnections: true, ...more }));
  const path = await listen(t, (socket) => attach(disk, socket));
  return { disk, path, uri: `nbd+unix:///${disk.export.name}?socket=${path}` };
}

/** A disk's worth of data with holes in it. */
function sparse(bytes: number): Buffer {
  const content = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += MIB)
    if ((at / MIB) % 3 !== 1) content.set(randomBytes(MIB - 4096 * 7), at);
  return content;
}

test("nbdinfo is told what the export is, and where it holds data", async (t) => {
  const { disk, uri, path } = await ours(t, 8 * MIB, { description: "a disk in memory", readOnly: true });
  const {
    exports: [info],
    ...server
  } = JSON.parse(await run("nbdinfo", "--json", uri));
  // libnbd 1.20 and later also tell of extended headers, which we do not offer.
  const { extended = false, ...plain } = server;
  assert.equal(extended, false);
  assert.deepEqual(plain, { protocol: "newstyle-fixed", TLS: false, structured: true });
  assert.equal(info["export-name"], "disk0");
  assert.equal(info.description, "a disk in memory");
  assert.equal(info["export-size"], 8 * MIB);
  assert.deepEqual(info.contexts, ["base:allocation"]);
  const can = ["is_read_only", "can_flush", "can_fua", "can_trim", "can_zero", "can_df", "can_multi_conn"];
  for (const what of can) assert.equal(info[what], true, what);
  for (const what of ["can_cache", "can_fast_zero"]) assert.equal(info[what], false, what);
  const sizes = ["minimum", "preferred", "maximum"].map((which) => info[`block_size_${which}`]);
  assert.deepEqual(sizes, [512, 4096, 32 * MIB]);
  const listed = JSON.parse(await run("nbdinfo", "--list", "--json", `nbd+unix:///?socket=${path}`));
  assert.deepEqual(
    listed.exports.map((one: Record<string, unknown>) => one["export-name"]),
    ["disk0"],
  );
  disk.content.fill(1, MIB, 2 * MIB);
  const map: { offset: number; length: number; type: number }[] = JSON.parse(
    await run("nbdinfo", "--map", "--json", uri),
  );
  assert.deepEqual(
    map.map(({ offset, length, type }) => [offset, length, type]),
    [
      [0, MIB, 3],
      [MIB, MIB, 0],
      [2 * MIB, 6 * MIB, 3],
    ],
  );
});

test("nbdcopy brings an image in and out, over several connections at once", async (t) => {
  const dir = await scratch(t);
  const { disk, uri } = await ours(t, 48 * MIB);
  const content = sparse(48 * MIB);
  await writeFile(join(dir, "in"), content);
  await run("nbdcopy", "--connections=4", "--requests=64", "--flush", join(dir, "in"), uri);
  assert.ok(content.equals(disk.content));
  const kinds = new Set(disk.requests.map(({ kind }) => kind));
  assert.ok(kinds.has("write") && kinds.has("flush"));
  await run("nbdcopy", uri, join(dir, "out"));
  assert.ok(content.equals(await readFile(join(dir, "out"))));
});

test("qemu-io writes, zeroes, discards, flushes and reads back", async (t) => {
  const { disk, uri } = await ours(t, 64 * MIB);
  const commands = [
    "write -P 0x5a 0 1M",
    "write -z 4k 8k",
    "write -z -u 64k 64k",
    "write -f -P 7 2M 33M",
    "aio_write -P 9 40M 1M",
    "aio_write -P 8 42M 1M",
    "aio_flush",
    "writev -P 3 48M 512 512 4096",
    "discard 512k 64k",
    "flush",
    "read -P 0 4k 8k",
    "read -P 0x5a 12k 32k",
    "read -P 7 2M 33M",
    "readv -P 9 40M 4096 512",
  ];
  const said = await run("qemu-io", "-f", "raw", ...commands.flatMap((command) => ["-c", command]), uri);
  assert.doesNotMatch(said, /fail|error/i);
  const expected = Buffer.alloc(64 * MIB);
  for (const [byte, from, length] of [
    [0x5a, 0, MIB],
    [0, 4096, 8192],
    [0, 65536, 65536],
    [0, MIB / 2, 65536],
    [7, 2 * MIB, 33 * MIB],
    [9, 40 * MIB, MIB],
    [8, 42 * MIB, MIB],
    [3, 48 * MIB, 5120],
  ] as const)
    expected.fill(byte, from, from + length);
  assert.ok(expected.equals(disk.content));
  const zeroes = disk.requests.filter(({ kind }) => kind === "zero");
  assert.deepEqual(
    zeroes.map(({ noHole }) => noHole),
    [true, false],
    "-u lets the space go",
  );
  assert.ok(disk.requests.some(({ kind, fua }) => kind === "write" && fua));
  assert.ok(disk.requests.some(({ kind }) => kind === "trim"));
});

test("qemu-io is told of errors: a server that has no room, a disk that is read-only", async (t) => {
  const { disk, uri } = await ours(t, MIB);
  disk.onTaken = (request, session) => {
    if (request.kind === "write") session.answer(request, "ENOSPC", "no room in the ring");
    else disk.answer(request, session);
  };
  const write = ["-f", "raw", "-c", "write 0 4k", "-c", "read 0 4k"];
  const full = await execute("qemu-io", [...write, uri]).catch((error) => error);
  assert.match(full.stdout + full.stderr, /write failed: No space left on device/);
  assert.match(full.stdout, /read 4096\/4096 bytes/);
  const readOnly = await ours(t, MIB, { readOnly: true });
  const refused = await execute("qemu-io", [...write, readOnly.uri]).catch((error) => error);
  assert.match(refused.stderr, /Permission denied/);
});

test("qemu-img reads, compares, maps and converts", async (t) => {
  const dir = await scratch(t);
  const { disk, uri } = await ours(t, 16 * MIB);
  const content = sparse(16 * MIB);
  content.copy(disk.content);
  const file = join(dir, "same");
  await writeFile(file, content);
  const info = JSON.parse(await run("qemu-img", "info", "--output=json", "-f", "raw", uri));
  assert.equal(info["virtual-size"], 16 * MIB);
  assert.match(await run("qemu-img", "compare", "-f", "raw", "-F", "raw", file, uri), /identical/);
  const map: { start: number; length: number; zero: boolean }[] = JSON.parse(
    await run("qemu-img", "map", "--output=json", "-f", "raw", uri),
  );
  for (const { start, length, zero } of map)
    assert.equal(
      content.subarray(start, start + length).every((byte) => byte === 0),
      zero,
    );
  await run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, join(dir, "copy"));
  await run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", file, join(dir, "copy"));
  disk.content[5 * MIB + 17]! ^= 1;
  const compared = execute("qemu-img", ["compare", "-f", "raw", "-F", "raw", file, uri]);
  await assert.rejects(compared, { code: 1, stdout: /mismatch at offset 5242880!/ });
});

test("nbdkit in between passes everything on", async (t) => {
  const dir = await scratch(t);
  const { disk, path } = await ours(t, 16 * MIB);
  const proxy = join(dir, "proxy");
  const pidFile = join(dir, "pid");
  await serve(
    t,
    pidFile,
    "nbdkit",
    "-P",
    pidFile,
    "-U",
    proxy,
    "nbd",
    `socket=${path}`,
    "export=disk0",
    "shared=true",
  );
  const content = sparse(16 * MIB);
  await writeFile(join(dir, "in"), content);
  const uri = `nbd+unix:///?socket=${proxy}`;
  await run("nbdcopy", "--flush", join(dir, "in"), uri);
  assert.ok(content.equals(disk.content));
  await run("nbdcopy", uri, join(dir, "out"));
  assert.ok(content.equals(await readFile(join(dir, "out"))));
});

test("the disk thread itself before the tools: what they write is in the ring, in order and tagged (I2)", async (t) => {
  const dir = await scratch(t);
  const bytes = 8 * MIB;
  const ring = WriteRing.ofSize(2 * bytes);
  const epochCell = new EpochCell();
  const endpoint = await DiskEndpoint.start({
    disks: [0, 1, 2].map((disk) => ({ disk, bytes })),
    ...{ ring, epochCell, onWritten: () => {}, onGrown: () => {}, onFailed: () => {} },
  });
  t.after(() => endpoint.stop());
  // One connection each, as QEMU has; the tools can only go to a path.
  const uriOf = async (disk: number) => {
    const end = new Socket({ fd: endpoint.descriptors.get(disk)!, readable: true, writable: true });
    end.on("error", () => {});
    const path = await listen(t, (socket) => socket.pipe(end).pipe(socket));
    return `nbd+unix:///disk${disk}?socket=${path}`;
  };
  const [info] = JSON.parse(await run("nbdinfo", "--no-content", "--json", await uriOf(0))).exports;
  const { can_trim, can_zero, can_flush, is_read_only } = info;
  assert.deepEqual([can_trim, can_zero, can_flush, is_read_only], [true, true, false, false]);
  assert.equal(info["export-size"], bytes);

  epochCell.set(5);
  const content = sparse(bytes);
  await writeFile(join(dir, "in"), content);
  await run("nbdcopy", "--connections=1", "--destination-is-zero", join(dir, "in"), await uriOf(1));
  const got = Buffer.alloc(bytes);
  for (let entry = ring.peek(); entry !== undefined; entry = ring.peek()) {
    assert.deepEqual([entry.disk, entry.epoch], [1, 5]);
    if (entry.data !== undefined) got.set(entry.data, entry.offset);
    ring.free(1);
  }
  assert.ok(got.equals(content));

  epochCell.set(6);
  const words = [
    "write -P 1 0 4k",
    "write -z -u 4k 8k",
    "discard 16k 4k",
    "write -P 2 512 512",
    "read 0 512",
  ];
  const { stdout, stderr } = await execute("qemu-io", [
    ...["-f", "raw"],
    ...words.flatMap((word) => ["-c", word]),
    await uriOf(2),
  ]).catch((error) => error);
  assert.match(stdout + stderr, /read failed: Operation not permitted/);
  const asked = Array.from({ length: ring.published - ring.freed }, (_, ahead) => ring.peek(ahead)!);
  assert.deepEqual(
    asked.map(({ disk, kind, offset, length, epoch }) => [disk, kind, offset, length, epoch]),
    [
      [2, DISK_WRITE, 0, 4096, 6],
      [2, DISK_ZERO, 4096, 8192, 6],
      [2, DISK_DISCARD, 16_384, 4096, 6],
      [2, DISK_WRITE, 512, 512, 6],
    ],
  );
});

test("clients that break the protocol are let go, and the others are served on", async (t) => {
  const { disk, path, uri } = await ours(t, MIB);
  const steady = await NbdClient.connect({ path, exportName: "disk0" });
  await steady.write(0, Buffer.alloc(4096, 1));
  const hugeWrite = encodeRequest(COMMAND.write, 0, 1, 0, 2 ** 32 - 1);
  const rows = [
    Buffer.from("GET / HTTP/1.1\r\nHost: remus\r\n\r\n"),
    Buffer.alloc(200, 0xff),
    entering("no such disk"),
    Buffer.concat([entering("disk0"), Buffer.alloc(28, 0x41)]),
    Buffer.concat([entering("disk0"), hugeWrite]),
  ];
  for (const bytes of rows) {
    const socket = connect(path);
    const closed = once(socket, "close");
    socket.resume().on("error", () => {});
    socket.write(bytes);
    await closed;
  }
  // One that goes in the middle of a write.
  const gone = connect(path);
  gone.write(
    Buffer.concat([entering("disk0"), encodeRequest(COMMAND.write, 0, 1, 8192, 8192), Buffer.alloc(100)]),
  );
  await once(gone, "data");
  gone.destroy();
  assert.equal(disk.ends.filter(({ clean }) => !clean).length, rows.length);
  assert.ok((await steady.read(0, 4096)).every((byte) => byte === 1));
  await steady.disconnect();
  await run("nbdinfo", uri);
});

/**
 * Writes, zeroes and reads through `client` as a disk's replica is written, and gives what must be there
 * then.
 */
async function exercise(client: NbdClient, bytes: number): Promise<Buffer> {
  const expected = sparse(bytes);
  const writes: Promise<void>[] = [];
  for (let at = 0; at < bytes; at += MIB) {
    const part = expected.subarray(at, at + MIB);
    writes.push(client.write(at, [part.subarray(0, 1000), part.subarray(1000)]));
  }
  await Promise.all(writes);
  await client.zero(4096, 65536);
  await client.zero(2 * MIB, MIB, { noHole: true });
  expected.fill(0, 4096, 4096 + 65536).fill(0, 2 * MIB, 3 * MIB);
  await client.flush();
  assert.ok(expected.equals(await client.read(0, bytes)), "one read of it all");
  return expected;
}

async function extentsOf(client: NbdClient, context: string): Promise<[number, number, number][]> {
  const extents: [number, number, number][] = [];
  for (let at = 0; at < client.bytes; )
    for (const { length, flags } of await client.blockStatus(at, client.bytes - at, context)) {
      const last = extents.at(-1);
      if (last?.[2] === flags) last[1] += length;
      else extents.push([at, length, flags]);
      at += length;
    }
  return extents;
}

test("our client on nbdkit's disk in memory", async (t) => {
  const dir = await scratch(t);
  const [path, pidFile] = [join(dir, "sock"), join(dir, "pid")];
  await serve(t, pidFile, "nbdkit", "-P", pidFile, "-U", path, "memory", "64M");
  const client = await NbdClient.connect({ path, exportName: "", contexts: ["base:allocation"] });
  assert.equal(client.bytes, 64 * MIB);
  const expected = await exercise(client, 64 * MIB);
  await client.trim(32 * MIB, 32 * MIB);
  expected.fill(0, 32 * MIB);
  const [, length, flags] = (await extentsOf(client, "base:allocation")).at(-1)!;
  assert.ok(length >= 32 * MIB && flags === 3, "nbdkit frees what is trimmed");
  await client.disconnect();
  const file = join(dir, "out");
  await run("nbdcopy", `nbd+unix:///?socket=${path}`, file);
  assert.ok(expected.equals(await readFile(file)));
});

for (const format of ["raw", "qcow2"])
  test(`our client on qemu-nbd and a ${format} image, also beyond 4 GiB`, async (t) => {
    const dir = await scratch(t);
    const [path, pidFile, image] = [join(dir, "sock"), join(dir, "pid"), join(dir, "image")];
    await run("qemu-img", "create", "-f", format, image, "9G");
    const args = [
      "--fork",
      "--pid-file",
      pidFile,
      "-k",
      path,
      "-x",
      "disk0",
      "-f",
      format,
      "-t",
      "--discard=unmap",
    ];
    await serve(t, pidFile, "qemu-nbd", ...args, image);
    const contexts = ["base:allocation"];
    const client = await NbdClient.connect({ path, exportName: "disk0", contexts });
    assert.equal(client.bytes, 9 * 1024 * MIB);
    const expected = await exercise(client, 32 * MIB);
    const far = 9 * 1024 * MIB - MIB;
    await client.write(far, Buffer.alloc(MIB, 0x33));
    await client.zero(64 * MIB, 8 * 1024 * MIB);
    await client.trim(64 * MIB, 8 * 1024 * MIB);
    assert.ok(
      (await client.read(5 * 1024 * MIB, 32 * MIB)).every((byte) => byte === 0),
      "holes",
    );
    assert.ok((await client.read(far, MIB)).every((byte) => byte === 0x33));
    const extents = await extentsOf(client, "base:allocation");
    assert.deepEqual(extents.at(-1), [far, MIB, 0]);
    const [at, length, flags] = extents.at(-2)!;
    assert.ok(at <= 64 * MIB && at + length === far && (flags & 2) !== 0, `${extents}`);
    await client.flush();
    await client.disconnect();
    const [head, tail] = [join(dir, "head"), join(dir, "tail")];
    await run(
      "qemu-img",
      "dd",
      "-U",
      "-f",
      format,
      "-O",
      "raw",
      "bs=1M",
      "count=32",
      `if=${image}`,
      `of=${head}`,
    );
    assert.ok(expected.equals(await readFile(head)));
    const skip = `skip=${far / MIB}`;
    await run(
      "qemu-img",
      "dd",
      "-U",
      "-f",
      format,
      "-O",
      "raw",
      "bs=1M",
      `count=${far / MIB + 1}`,
      skip,
      `if=${image}`,
      `of=${tail}`,
    );
    assert.ok((await readFile(tail)).equals(Buffer.alloc(MIB, 0x33)));
  });

test("our client reads the dirty bitmaps of a running QEMU's disk, and is told what may not be done", async (t) => {
  const dir = await scratch(t);
  const [path, pidFile, qmpPath] = [join(dir, "sock"), join(dir, "pid"), join(dir, "qmp")];
  const image = join(dir, "image.qcow2");
  await run("qemu-img", "create", "-f", "qcow2", image, "64M");
  const qmpArgs = [
    "--chardev",
    `socket,id=qmp,path=${qmpPath},server=on,wait=off`,
    "--monitor",
    "chardev=qmp",
  ];
  await serve(t, pidFile, "qemu-storage-daemon", "--daemonize", "--pidfile", pidFile, ...qmpArgs);
  const qmp = await Qmp.connect(qmpPath);
  t.after(() => qmp.close());
  const file = { driver: "file", filename: image };
  await qmp.execute("blockdev-add", { driver: "qcow2", "node-name": "disk0", file });
  await qmp.execute("block-dirty-bitmap-add", { node: "disk0", name: "since", granularity: 65536 });
  await qmp.execute("nbd-server-start", { addr: { type: "unix", data: { path } } });
  const exported = { type: "nbd", id: "writes", "node-name": "disk0", name: "disk0" };
  await qmp.execute("block-export-add", { ...exported, writable: true });
  const writer = await NbdClient.connect({ path, exportName: "disk0" });
  await writer.write(10 * MIB, Buffer.alloc(MIB, 1));
  await writer.write(20 * MIB + 4096, Buffer.alloc(512, 2));

  // A bitmap that still grows cannot be read through an export that only reads: a copy of it can.
  await qmp.execute("block-dirty-bitmap-add", {
    node: "disk0",
    name: "copy",
    granularity: 65536,
    disabled: true,
  });
  await qmp.execute("block-dirty-bitmap-merge", { node: "disk0", target: "copy", bitmaps: ["since"] });
  const bitmaps = { type: "nbd", id: "reads", "node-name": "disk0", name: "look", bitmaps: ["copy"] };
  await qmp.execute("block-export-add", { ...bitmaps, writable: false });
  const context = "qemu:dirty-bitmap:copy";
  const reader = await NbdClient.connect({
    path,
    exportName: "look",
    contexts: ["base:allocation", context],
  });
  assert.equal(reader.readOnly, true);
  assert.deepEqual(await extentsOf(reader, context), [
    [0, 10 * MIB, 0],
    [10 * MIB, MIB, 1],
    [11 * MIB, 9 * MIB, 0],
    [20 * MIB, 65536, 1],
    [20 * MIB + 65536, 44 * MIB - 65536, 0],
  ]);
  assert.ok((await reader.read(10 * MIB, MIB)).every((byte) => byte === 1));
  const refused = async (promise: Promise<unknown>) => {
    const error = await promise.catch((reason) => reason);
    assert.ok(error instanceof NbdError, `${error}`);
    return error;
  };

  // QEMU 7.2 says EINVAL, though the protocol wants EPERM.
  const readOnly = await refused(reader.write(0, Buffer.alloc(512)));
  assert.match(readOnly.message, /write of 512 bytes at 0 failed with E(PERM|INVAL): Export is read-only/);
  const missing = await refused(NbdClient.connect({ path, exportName: "disk7" }));
  assert.equal(missing.errno, "ENOENT");
  const noBitmap = ["qemu:dirty-bitmap:other"];
  const without = await refused(NbdClient.connect({ path, exportName: "look", contexts: noBitmap }));
  assert.match(without.message, /no metadata context "qemu:dirty-bitmap:other"/);
  // QEMU takes an export away from under its clients: they must hear of it.
  await qmp.execute("block-export-del", { id: "reads", mode: "hard" });
  assert.equal((await reader.closed).expected, false);
  assert.equal((await refused(reader.read(0, 512))).errno, "ENOTCONN");
  await writer.write(0, Buffer.alloc(512));
  await writer.disconnect();
});
