/**
 * A QEMU's disks over its monitors: firmware alone runs in it, and the "guest's" writes are made through the
 * device from the monitor, so they take the guest's way. The endpoint is an NBD server of ours with a memory
 * for an image.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type NbdRequest, NbdServerSession } from "../../src/codec/nbd-server.ts";
import { NbdClient } from "../../src/disk/nbd-client.ts";
import { blockNodes, fileNodeOptions } from "../../src/hypervisor/qemu/disk-nodes.ts";
import {
  addBitmap,
  exportDisk,
  removeBitmap,
  removeExport,
  renewIntent,
  replicateDisk,
  setFlushing,
  snapshotBitmap,
  startExports,
  stopExports,
  stopReplicatingDisk,
} from "../../src/hypervisor/qemu/disks.ts";
import { QemuProcess } from "../../src/hypervisor/qemu/process.ts";
import { closeDescriptor, socketPair } from "../../src/os/socket.ts";

const MIB = 1 << 20;
const DISK_BYTES = 16 * MIB;
const KIB = 1024;

type Bus = "virtio-blk" | "virtio-scsi";
interface Options {
  readonly bus?: Bus;
  readonly incoming?: boolean;
}

/** A VM with one disk, gone with the test. */
class Vm {
  readonly qemu: QemuProcess;
  readonly image: string;
  readonly directory: string;
  private readonly device: string;

  private constructor(qemu: QemuProcess, image: string, directory: string, device: string) {
    this.qemu = qemu;
    this.image = image;
    this.directory = directory;
    this.device = device;
  }

  static async start(t: TestContext, { bus = "virtio-blk", incoming = false }: Options = {}): Promise<Vm> {
    const directory = mkdtempSync(join(tmpdir(), "remus-disks-"));
    t.after(() => rmSync(directory, { recursive: true, force: true }));
    // A name with what QEMU's lists and names could stumble over.
    const image = join(directory, "a disk,of:mine");
    writeFileSync(image, "");
    truncateSync(image, DISK_BYTES);
    const device =
      bus === "virtio-blk"
        ? ["-device", "virtio-blk-pci,id=vdisk0,drive=disk0"]
        : ["-device", "virtio-scsi-pci,id=scsi", "-device", "scsi-hd,id=vdisk0,bus=scsi.0,drive=disk0"];
    const command = [
      ...["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"],
      ...["-machine", "pc,accel=tcg", "-m", "16"],
      ...QemuProcess.monitorPaths(directory).flatMap((path) => ["-qmp", `unix:${path},server=on,wait=off`]),
      "-blockdev",
      JSON.stringify(fileNodeOptions({ index: 0, driver: "file", filename: image, noFlush: false })),
      ...["-blockdev", "driver=raw,node-name=disk0,file=disk0-file,discard=unmap"],
      ...device,
      ...(incoming ? ["-incoming", "defer"] : []),
    ];
    const qemu = await QemuProcess.start({ command, runDirectory: directory, bindLifetimes: true });
    t.after(async () => {
      qemu.kill();
      await qemu.exited;
    });
    return new Vm(qemu, image, directory, bus === "virtio-blk" ? "vdisk0/virtio-backend" : "vdisk0");
  }

  /** As if the guest did it. Resolves when the device is told that it is done. */
  async does(what: string): Promise<void> {
    await this.qemu.qmp.execute("human-monitor-command", {
      "command-line": `qemu-io -d ${this.device} "${what}"`,
    });
  }

  /** What the image has from `offset` on. */
  reads(offset: number, length: number): Buffer {
    return readFileSync(this.image).subarray(offset, offset + length);
  }

  async nodes(): Promise<string[]> {
    return [...(await blockNodes(this.qemu.qmp)).keys()].sort();
  }

  async runs(): Promise<boolean> {
    return (await this.qemu.qmp.execute<{ running: boolean }>("query-status")).running;
  }
}

/** An NBD server for one connection of QEMU's. `fd` is for QEMU. */
class Endpoint {
  readonly fd: number;
  readonly image: Buffer;
  readonly requests: string[] = [];
  /** Called with each write and zero before it is answered. */
  onChange: (request: NbdRequest) => void = () => {};
  answering = true;
  refusing = false;
  readonly socket: Socket;
  private readonly session: NbdServerSession;

  constructor(t: TestContext, bytes = DISK_BYTES, serving = true) {
    this.image = Buffer.alloc(bytes);
    const [ours, qemus] = socketPair();
    this.fd = qemus;
    this.socket = new Socket({ fd: ours, readable: true, writable: true });
    this.socket.on("error", () => {});
    t.after(() => {
      closeDescriptor(qemus);
      this.socket.destroy();
    });
    const block = { minimumBlock: 512, preferredBlock: 4096, maximumBlock: 32 * MIB };
    this.session = new NbdServerSession({
      exports: [{ name: "disk0", description: "a test", bytes, readOnly: false, ...block }],
      send: (chunk) => this.socket.write(chunk),
      onRequest: (request) => this.take(request),
      onWriteData: ({ offset }, piece, at) => {
        this.image.set(piece, offset + at);
        return piece.length;
      },
      onEnd: () => this.socket.destroy(),
    });
    if (!serving) return;
    this.socket.on("data", (chunk: Buffer) => this.session.push(chunk));
    this.session.start();
  }

  private take(request: NbdRequest): boolean {
    this.requests.push(
      request.kind === "flush" ? "flush" : `${request.kind} ${request.offset}+${request.length}`,
    );
    if (request.kind === "zero") this.image.fill(0, request.offset, request.offset + request.length);
    if (request.kind === "write" || request.kind === "zero") this.onChange(request);
    if (this.answering) this.session.answer(request, this.refusing ? "EIO" : undefined);
    return true;
  }
}

/** Collects what `replicateDisk` says of a failure. */
class Failures {
  readonly told: string[] = [];
  private readonly first = Promise.withResolvers<string>();
  readonly onFailed = (reason: string) => {
    this.told.push(reason);
    this.first.resolve(reason);
  };
  next(): Promise<string> {
    return this.first.promise;
  }
}

const never = (reason: string) => assert.fail(`the mirror ended unasked: ${reason}`);

for (const bus of ["virtio-blk", "virtio-scsi"] as const)
  test(`every write of the guest is at the endpoint before it is done: ${bus}`, async (t) => {
    const vm = await Vm.start(t, { bus });
    await vm.does("write -P 0x11 0 64k");
    const endpoint = new Endpoint(t);
    await replicateDisk(vm.qemu, { index: 0, fd: endpoint.fd, onFailed: never });
    assert.deepEqual(
      endpoint.requests.filter((request) => request !== "flush"),
      [],
      "what was there before is not copied",
    );
    for (const [what, request] of [
      ["write -P 0x21 512 512", "write 512+512"],
      ["write -P 0x22 1m 2m", `write ${MIB}+${2 * MIB}`],
      ["write -z 2m 64k", `zero ${2 * MIB}+${64 * KIB}`],
    ] as const) {
      await vm.does(what);
      assert.equal(endpoint.requests.at(-1), request);
    }
    const written = vm.reads(0, DISK_BYTES);
    written.fill(0, 0, 512).fill(0, 1024, 64 * KIB);
    assert.ok(endpoint.image.equals(written), "both have the same");

    await stopReplicatingDisk(vm.qemu, 0);
    const before = endpoint.requests.length;
    await vm.does("write -P 0x23 4m 4k");
    assert.equal(endpoint.requests.length, before, "nothing after the end");
    assert.deepEqual(vm.reads(4 * MIB, 4 * KIB), Buffer.alloc(4 * KIB, 0x23));
    assert.deepEqual(await vm.nodes(), ["disk0", "disk0-file"]);
    await stopReplicatingDisk(vm.qemu, 0);
    assert.ok(await vm.runs(), "I5: the VM runs on");
  });

test("I5: an endpoint that fails is told of once, and the guest does not notice", async (t) => {
  const vm = await Vm.start(t);
  for (const fault of ["closes", "refuses"]) {
    const endpoint = new Endpoint(t);
    const failures = new Failures();
    await replicateDisk(vm.qemu, { index: 0, fd: endpoint.fd, onFailed: failures.onFailed });
    await vm.does("write -P 0x31 0 4k");
    assert.deepEqual(failures.told, []);
    if (fault === "closes") endpoint.socket.destroy();
    else endpoint.refusing = true;
    await vm.does("write -P 0x32 0 4k");
    assert.match(await failures.next(), /^The mirror of disk0 failed: /, fault);
    assert.deepEqual(vm.reads(0, 4 * KIB), Buffer.alloc(4 * KIB, 0x32), "the guest's write was done");
    await stopReplicatingDisk(vm.qemu, 0);
    assert.equal(failures.told.length, 1);
    assert.deepEqual(await vm.nodes(), ["disk0", "disk0-file"]);
  }
});

test("I5: an endpoint that hangs stops the guest no longer than it takes to give it up", async (t) => {
  const vm = await Vm.start(t);
  const endpoint = new Endpoint(t);
  const failures = new Failures();
  await replicateDisk(vm.qemu, { index: 0, fd: endpoint.fd, onFailed: failures.onFailed });
  endpoint.answering = false;
  const write = vm.does("write -P 0x41 0 4k");
  await stopReplicatingDisk(vm.qemu, 0);
  await write;
  assert.deepEqual(failures.told, [], "it was to end");
  assert.deepEqual(vm.reads(0, 4 * KIB), Buffer.alloc(4 * KIB, 0x41));
  assert.deepEqual(await vm.nodes(), ["disk0", "disk0-file"]);
  assert.ok(await vm.runs());
});

test("I5: what cannot be started is undone, and the reason told", async (t) => {
  const vm = await Vm.start(t);
  const tooSmall = new Endpoint(t, DISK_BYTES / 2);
  const intent = new Endpoint(t);
  await assert.rejects(
    replicateDisk(vm.qemu, { index: 0, fd: tooSmall.fd, intentFd: intent.fd, onFailed: never }),
    /disk0 cannot be replicated: .*different sizes/,
  );
  assert.deepEqual(await vm.nodes(), ["disk0", "disk0-file"]);
  const dumb = new Endpoint(t, DISK_BYTES, false);
  await assert.rejects(
    replicateDisk(vm.qemu, { index: 0, fd: dumb.fd, onFailed: never }),
    /disk0 cannot be replicated: .*blockdev-add/,
  );
  assert.deepEqual(await vm.nodes(), ["disk0", "disk0-file"]);
  const good = new Endpoint(t);
  await replicateDisk(vm.qemu, { index: 0, fd: good.fd, onFailed: never });
  await vm.does("write -P 0x51 0 4k");
  assert.deepEqual(good.image.subarray(0, 4 * KIB), Buffer.alloc(4 * KIB, 0x51));
});

test("write-intent: told before the image is touched, once per 64 KiB until renewed", async (t) => {
  const vm = await Vm.start(t);
  const mirror = new Endpoint(t);
  const told = (endpoint: Endpoint) => endpoint.requests.splice(0).filter((request) => request !== "flush");
  const first = new Endpoint(t);
  let imageThen: Buffer | undefined;
  first.onChange = () => {
    imageThen = vm.reads(5 * 64 * KIB, 512);
  };
  await replicateDisk(vm.qemu, { index: 0, fd: mirror.fd, intentFd: first.fd, onFailed: never });
  told(mirror);
  await vm.does("write -P 0x61 330k 4k");
  assert.deepEqual(told(first), [`zero ${5 * 64 * KIB}+${64 * KIB}`]);
  assert.deepEqual(imageThen, Buffer.alloc(512), "not yet written");
  assert.deepEqual(told(mirror), [`write ${330 * KIB}+${4 * KIB}`]);
  await vm.does("write -P 0x62 340k 4k");
  assert.deepEqual(told(first), [], "known already");
  await vm.does("write -z 330k 4k");
  assert.deepEqual(told(first), []);
  assert.deepEqual(told(mirror).length, 2);

  for (const [round, byte] of [
    ["second", 0x63],
    ["third", 0x64],
  ] as const) {
    const next = new Endpoint(t);
    await renewIntent(vm.qemu, 0, next.fd);
    await vm.does(`write -P ${byte} 320k 4k`);
    assert.deepEqual(told(next), [`write ${5 * 64 * KIB}+${64 * KIB}`], round);
    assert.deepEqual(told(mirror), [`write ${320 * KIB}+${4 * KIB}`], round);
    assert.equal((await vm.nodes()).filter((node) => /intent\d$/.test(node)).length, 1, round);
    next.socket.destroy();
    await vm.does(`write -P ${byte} 8m 4k`);
    assert.deepEqual(told(mirror), [`write ${8 * MIB}+${4 * KIB}`], "I5: it goes on without intent");
  }
  await stopReplicatingDisk(vm.qemu, 0);
  assert.deepEqual(await vm.nodes(), ["disk0", "disk0-file"]);
  await vm.does("write -P 0x65 0 4k");
  assert.deepEqual(vm.reads(0, 4 * KIB), Buffer.alloc(4 * KIB, 0x65));
});

test("a running VM's disk can be read, with a copy of the notes of what was written", async (t) => {
  const vm = await Vm.start(t);
  const { qmp } = vm.qemu;
  const endpoint = new Endpoint(t);
  await addBitmap(qmp, { index: 0, name: "notes" });
  await replicateDisk(vm.qemu, { index: 0, fd: endpoint.fd, onFailed: never });
  await vm.does("write -P 0x71 1m 8k");
  await snapshotBitmap(qmp, { index: 0, from: "notes", to: "copy" });
  const path = join(vm.directory, "exports");
  await startExports(qmp, path);
  await exportDisk(qmp, { index: 0, writable: false, bitmap: "copy" });
  const context = "qemu:dirty-bitmap:copy";
  const client = await NbdClient.connect({ path, exportName: "disk0", contexts: [context] });
  await vm.does("write -P 0x72 4m 4k");
  const dirty: [number, number][] = [];
  for (let at = 0; at < client.bytes; )
    for (const { length, flags } of await client.blockStatus(at, client.bytes - at, context)) {
      if (flags !== 0) dirty.push([at, length]);
      at += length;
    }
  assert.deepEqual(dirty, [[MIB, 8 * KIB]], "as it was when it was copied");
  assert.deepEqual(
    await client.read(4 * MIB, 4 * KIB),
    Buffer.alloc(4 * KIB, 0x72),
    "but the disk is as it is",
  );
  await assert.rejects(removeBitmap(qmp, { index: 0, name: "copy" }), /in use/);
  await removeExport(qmp, 0);
  assert.equal((await client.closed).expected, false);
  await removeExport(qmp, 0);
  for (const name of ["copy", "notes", "notes"]) await removeBitmap(qmp, { index: 0, name });
  await stopExports(qmp);
});

test("a standby's disk is written through its export, and is the VM's once the export is gone", async (t) => {
  const standby = await Vm.start(t, { incoming: true });
  const { qmp } = standby.qemu;
  const path = join(standby.directory, "exports");
  await startExports(qmp, path);
  await exportDisk(qmp, { index: 0, writable: true });
  const client = await NbdClient.connect({ path, exportName: "disk0" });
  await client.write(MIB, Buffer.alloc(4096, 0x81));
  await removeExport(qmp, 0);
  await assert.rejects(client.write(MIB, Buffer.alloc(4096, 0x82)), "nothing more from outside");
  await addBitmap(qmp, { index: 0, name: "solo" });

  const primary = await Vm.start(t);
  const uri = `unix:${join(standby.directory, "state")}`;
  await qmp.execute("migrate-incoming", { uri });
  const running = new Promise<void>((resolve) => qmp.on("RESUME", () => resolve()));
  await primary.qemu.qmp.execute("migrate", { uri });
  await running;
  await standby.does("write -P 0x83 2m 4k");
  assert.deepEqual(standby.reads(MIB, 4096), Buffer.alloc(4096, 0x81));
  assert.deepEqual(standby.reads(2 * MIB, 4096), Buffer.alloc(4096, 0x83), "the VM has the disk");
  const bitmaps = (await blockNodes(qmp)).get("disk0")!["dirty-bitmaps"] as { name: string; count: number }[];
  assert.deepEqual(
    bitmaps.map(({ name, count }) => [name, count]),
    [["solo", 4096]],
    "the notes begin with what the VM does here",
  );
});

test("flushing is switched on the running VM, with the mirror on, and nothing else changes", async (t) => {
  const vm = await Vm.start(t);
  const { qmp } = vm.qemu;
  const endpoint = new Endpoint(t);
  await replicateDisk(vm.qemu, { index: 0, fd: endpoint.fd, onFailed: never });
  const description = async () => (await blockNodes(qmp)).get("disk0-file")!;
  const { cache: before, ...rest } = await description();
  assert.equal(before["no-flush"], false);
  for (const on of [false, true, false]) {
    await setFlushing(qmp, { index: 0, on });
    const { cache, ...now } = await description();
    assert.equal(cache["no-flush"], !on);
    assert.deepEqual(Object.keys(now), Object.keys(rest));
    assert.equal(now.file, rest.file);
    await vm.does("write -P 0x91 0 4k");
    await vm.does("flush");
    assert.deepEqual(endpoint.image.subarray(0, 4096), Buffer.alloc(4096, 0x91));
  }
  await assert.rejects(setFlushing(qmp, { index: 1, on: true }), /has no disk 1/);
});
