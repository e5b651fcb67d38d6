/**
 * Preflight on real QEMUs, taps and directories: each thing that would break protection is found before
 * anything is touched (I5), and an ordinary VM is not complained about. What this machine lacks (vhost, VFIO)
 * is put in its place as an open file of that name.
 */
import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, globSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { probeAccelerator, tryFirmware, tryLinux } from "../../src/hypervisor/qemu/accelerator.ts";
import { livePreflight } from "../../src/hypervisor/qemu/live-preflight.ts";
import { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import { buildTcgAids } from "../../src/hypervisor/qemu/tcg-aids.ts";
import type { Finding } from "../../src/hypervisor/qemu/traps.ts";
import { memoryBounds } from "../../src/memory/memory-bounds.ts";

const run = promisify(execFile);
const root = join(import.meta.dirname, "../..");
const preflight = join(root, "src/hypervisor/qemu/preflight.ts");

async function scratch(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "remus-preflight-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** Starts a firmware guest under TCG, in namespaces of its own, after the shell commands in `before`. */
async function startQemu(t: TestContext, options: { args?: string[]; before?: string; aids?: boolean } = {}) {
  const dir = await scratch(t);
  const preload = options.aids === false ? undefined : await buildTcgAids(dir);
  const socket = join(dir, "qmp");
  const qemu: ChildProcess = spawn(
    "unshare",
    [
      ...["-n", "-m", "sh", "-ec", `${options.before ?? ":"}; exec "$@"`, "sh"],
      ...(preload === undefined ? [] : ["env", `LD_PRELOAD=${preload}`]),
      ...["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-m", "32"],
      ...["-machine", "pc,accel=tcg", "-qmp", `unix:${socket},server=on,wait=off`, ...(options.args ?? [])],
    ],
    { stdio: ["ignore", "inherit", "inherit"] },
  );
  t.after(async () => {
    const gone = once(qemu, "exit");
    if (qemu.exitCode === null && qemu.kill("SIGKILL")) await gone;
  });
  const qmp = await Qmp.connect(socket);
  t.after(() => qmp.close());
  return { qmp, pid: qemu.pid!, dir };
}

function codes(findings: readonly Finding[]): string[] {
  return findings.map(({ code }) => code).sort();
}

test("live: an ordinary VM with the aids gives no finding", async (t) => {
  const { qmp, pid } = await startQemu(t, {
    before: "ip tuntap add t0 mode tap",
    args: [
      ...["-netdev", "tap,id=net0,ifname=t0,script=no,downscript=no,vhost=off"],
      ...["-device", "virtio-net-pci,id=nic0,netdev=net0"],
    ],
  });
  assert.deepEqual(await livePreflight(qmp, pid, 1), []);
  // The same one, of which Remus knows nothing.
  assert.deepEqual(codes(await livePreflight(qmp, pid, 0)), ["extra-nic", "extra-nic"]);
});

test("live: software emulation without the aids is refused", async (t) => {
  const { qmp, pid } = await startQemu(t, { aids: false });
  assert.deepEqual(codes(await livePreflight(qmp, pid, 0)), ["qemu-tcg-unaided"]);
});

test("live: a device that blocks migration is named", async (t) => {
  const { qmp, pid } = await startQemu(t, {
    args: [
      ...["-object", "memory-backend-ram,id=shared,size=1M,share=on"],
      ...["-device", "ivshmem-plain,memdev=shared"],
    ],
  });
  const [finding, ...more] = await livePreflight(qmp, pid, 0);
  assert.deepEqual(more, []);
  assert.equal(finding?.code, "blocked");
  assert.match(finding?.message ?? "", /ivshmem/);
});

test("live: a device that QEMU calls unmigratable is found", async (t) => {
  const { qmp, pid } = await startQemu(t, { args: ["-device", "nvme,serial=1"] });
  const [finding, ...more] = await livePreflight(qmp, pid, 0);
  assert.deepEqual(more, []);
  assert.equal(finding?.code, "blocked");
  assert.match(finding?.message ?? "", /nvme/);
});

test("live: a network with two queues is found (I1)", async (t) => {
  const { qmp, pid } = await startQemu(t, {
    before: "ip tuntap add t0 mode tap multi_queue",
    args: [
      ...["-netdev", "tap,id=net0,ifname=t0,script=no,downscript=no,queues=2"],
      ...["-device", "virtio-net-pci,netdev=net0,mq=on"],
    ],
  });
  assert.ok(codes(await livePreflight(qmp, pid, 0)).includes("multiqueue"));
});

test("live: a card that came by a file of arguments is found, and so is one that is plugged in later (I1)", async (t) => {
  const file = join(await scratch(t), "more.cfg");
  await writeFile(
    file,
    '[netdev "n9"]\n  type = "user"\n  restrict = "on"\n[device "c9"]\n  driver = "e1000"\n  netdev = "n9"\n',
  );
  const { qmp, pid } = await startQemu(t, { args: ["-readconfig", file] });
  const [card, backend, ...more] = await livePreflight(qmp, pid, 0);
  assert.deepEqual(more, []);
  assert.equal(card?.code, "extra-nic");
  assert.match(card?.message ?? "", /c9 \(e1000\).*device_del c9/);
  assert.match(backend?.message ?? "", /n9 \(user\)/);
  await qmp.execute("netdev_add", { type: "user", id: "net1", restrict: true });
  await qmp.execute("device_add", { driver: "virtio-net-pci", id: "nic1", netdev: "net1" });
  assert.equal((await livePreflight(qmp, pid, 0)).length, 4);
  // Ours end at the number of vm.nics, whatever the name says.
  assert.equal((await livePreflight(qmp, pid, 1)).length, 4);
});

test("live: a port that was led out over another monitor is told of (I1)", async (t) => {
  const { qmp, pid, dir } = await startQemu(t, { args: ["-device", "virtio-serial-pci"] });
  await qmp.execute("chardev-add", {
    id: "leak",
    backend: { type: "file", data: { out: join(dir, "leak.txt") } },
  });
  await qmp.execute("device_add", { driver: "virtserialport", chardev: "leak" });
  const [finding, ...more] = await livePreflight(qmp, pid, 0);
  assert.deepEqual(more, []);
  assert.deepEqual([finding?.code, finding?.severity], ["unheld-output", "warning"]);
  assert.match(finding?.message ?? "", /leak leads to file/);
});

test("live: open vhost and VFIO devices are found (I1, I7)", async (t) => {
  const { qmp, pid } = await startQemu(t, {
    before: `mount -t tmpfs none /dev; mknod /dev/null c 1 3; mknod /dev/urandom c 1 9; mkdir /dev/vfio
      : > /dev/vfio/7; : > /dev/vhost-net; exec 8</dev/vfio/7 9</dev/vhost-net`,
  });
  assert.deepEqual(codes(await livePreflight(qmp, pid, 0)), ["vfio", "vhost"]);
});

test("live: a paused VM, a forbidden capability and a writable disk are found", async (t) => {
  const disk = join(await scratch(t), "disk");
  await writeFile(disk, Buffer.alloc(1 << 20));
  const { qmp, pid } = await startQemu(t, { args: ["-drive", `file=${disk},format=raw,if=virtio`] });
  await qmp.execute("stop");
  await qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "xbzrle", state: true }] });
  const found = codes(await livePreflight(qmp, pid, 0));
  assert.deepEqual(found, ["migration-capability", "not-running", "unprotected-disk"]);
});

test("live: another migration under way is found", async (t) => {
  const { qmp, pid, dir } = await startQemu(t);
  const server = createServer((socket) => socket.pause());
  t.after(() => server.close());
  server.listen(join(dir, "nobody-reads"));
  await once(server, "listening");
  await qmp.execute("migrate-set-parameters", { "max-bandwidth": 1024 });
  const connected = once(server, "connection");
  await qmp.execute("migrate", { uri: `unix:${join(dir, "nobody-reads")}` });
  const [socket] = await connected;
  t.after(() => socket.destroy());
  assert.deepEqual(codes(await livePreflight(qmp, pid, 0)), ["migrating"]);
});

const spec = {
  name: "vm1",
  uuid: "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10",
  machine: "pc",
  cpu: "qemu64",
  vcpus: 1,
  memoryMiB: 64,
  nics: [{ mac: "52:54:00:00:00:01", tap: "t0" }],
  disks: [],
  boot: { kind: "firmware" },
  extraArgs: [],
};
const question = {
  accelerator: { accelerator: "kvm", reason: "", kvmFirmwareOnly: false },
  wanted: "auto",
  runDirectory: "/tmp/remus",
  runsHere: true,
};

/**
 * Runs a function of preflight.ts in a process of its own, in new namespaces, after the shell commands in
 * `before`.
 */
async function lookFrom(before: string, call: string, ...args: unknown[]): Promise<Finding[]> {
  const code = `import { ${call} } from ${JSON.stringify(preflight)};
    console.log(JSON.stringify(await ${call}(...${JSON.stringify(args)})));`;
  const node = [process.execPath, "--input-type=module", "-e", code];
  const { stdout } = await run("unshare", ["-n", "-m", "sh", "-ec", `${before}; exec "$@"`, "sh", ...node]);
  return JSON.parse(stdout) as Finding[];
}

test("static: an ordinary tap gives no finding", async () => {
  const before = "ip tuntap add t0 mode tap; ip link set t0 up";
  assert.deepEqual(await lookFrom(before, "staticPreflight", spec, question), []);
});

test("static: a missing tap is found, in the namespace that we are in", async () => {
  assert.deepEqual(codes(await lookFrom(":", "staticPreflight", spec, question)), ["tap-missing"]);
});

test("static: a tap with several queues, and a device that is none, are found", async () => {
  const multi = "ip tuntap add t0 mode tap multi_queue; ip link set t0 up";
  assert.deepEqual(codes(await lookFrom(multi, "staticPreflight", spec, question)), ["multiqueue"]);
  const other = "ip link add t0 type veth peer name t1; ip link set t0 up";
  assert.deepEqual(codes(await lookFrom(other, "staticPreflight", spec, question)), ["tap-other"]);
});

test("static: a tap that another QEMU has open is found", async (t) => {
  const { pid } = await startQemu(t, {
    before: "ip tuntap add t0 mode tap; ip link set t0 up",
    args: [
      "-netdev",
      "tap,id=net0,ifname=t0,script=no,downscript=no",
      "-device",
      "virtio-net-pci,netdev=net0",
    ],
  });
  const code = `import { staticPreflight } from ${JSON.stringify(preflight)};
    console.log(JSON.stringify(await staticPreflight(${JSON.stringify(spec)}, ${JSON.stringify(question)})));`;
  const { stdout } = await run("nsenter", [
    ...["-t", String(pid), "-n", process.execPath, "--input-type=module", "-e", code],
  ]);
  assert.deepEqual(codes(JSON.parse(stdout) as Finding[]), ["tap-busy"]);
});

test("static: a user without rights is told which ones are missing", async () => {
  const before = `ip tuntap add t0 mode tap user 4711; ip link set t0 up; mount -t tmpfs none /dev/net
    set -- setpriv --bounding-set=-all --inh-caps=-all "$@"`;
  const asked = { ...question, runDirectory: "/proc/remus" };
  const found = codes(await lookFrom(before, "staticPreflight", spec, asked));
  assert.deepEqual(found, ["no-net-admin", "no-tun", "run-directory"]);
});

test("static: no QEMU, no kernel file, and more RAM than there is are found", async () => {
  const big = {
    ...spec,
    nics: [],
    memoryMiB: 1 << 30,
    boot: { kind: "kernel", kernel: "/nowhere/vmlinuz", initrd: "/nowhere/initrd", append: "" },
  };
  const asked = { ...question, binary: "/nowhere/qemu" };
  const found = codes(await lookFrom(":", "staticPreflight", big, asked));
  assert.deepEqual(found, ["boot-file", "boot-file", "memory", "qemu-missing"]);
});

test("backup: too little room for the RAM image, or for a disk, is found; enough is not", async () => {
  const mount = "mount -t tmpfs -o size=32m none /mnt";
  const bounds = memoryBounds({ memoryMiB: 64 }, { stagingMiB: 64, commitMiB: 256, diskMiB: 64 });
  const asked = { imageDirectory: "/mnt/vm1", imageFile: "/mnt/vm1/vm1.ram", bounds, images: [] };
  assert.deepEqual(codes(await lookFrom(mount, "backupPreflight", spec, asked)), ["image-room"]);
  const small = { ...spec, memoryMiB: 16 };
  assert.deepEqual(await lookFrom(mount, "backupPreflight", small, asked), []);
  const disk = { image: "/mnt/d", format: "raw", bus: "virtio-blk", storage: "replicated" };
  const withDisk = { ...small, disks: [disk] };
  const image = { kind: "file", virtualBytes: 20 << 20, allocatedBytes: 0 };
  const diskAsked = { ...asked, imageDirectory: "/dev/shm", images: [image] };
  const withFile = `${mount}; truncate -s 20M /mnt/d; head -c 20M /dev/zero > /mnt/other`;
  assert.deepEqual(codes(await lookFrom(withFile, "backupPreflight", withDisk, diskAsked)), ["disk-room"]);
  const huge = { ...spec, memoryMiB: 1 << 30 };
  assert.deepEqual(codes(await lookFrom(mount, "backupPreflight", huge, asked)), [
    "backup-memory",
    "image-room",
  ]);
});

test("accelerator: firmware comes up under TCG, and a machine without that binary says so", async (t) => {
  assert.deepEqual(await tryFirmware({ accelerator: "tcg" }), { up: true, why: "" });
  await assert.rejects(probeAccelerator({ cacheDir: await scratch(t), binary: "/nowhere/qemu" }), /nowhere/);
  await assert.rejects(
    probeAccelerator({ cacheDir: "/nowhere", kernel: "/nowhere/k" }),
    /kernel \/nowhere\/k cannot/,
  );
});

const kernel = globSync(join(root, ".cache/kernel/boot/vmlinuz-*"))[0];

test("accelerator: Linux is told from a kernel that does not come up", { skip: !kernel }, async (t) => {
  const linux = { accelerator: "tcg", firstLineMs: 60_000, endMs: 60_000 } as const;
  assert.deepEqual(await tryLinux({ ...linux, kernel: kernel! }), { up: true, why: "" });
  const notLinux = join(await scratch(t), "kernel");
  await writeFile(notLinux, Buffer.alloc(4096));
  const trial = await tryLinux({ ...linux, kernel: notLinux, firstLineMs: 1000 });
  assert.equal(trial.up, false);
});

test("accelerator: the answer names KVM only where /dev/kvm is there, and is kept", async (t) => {
  const cacheDir = await scratch(t);
  const first = await probeAccelerator({ cacheDir, ...(kernel ? { kernel } : {}) });
  if (!existsSync("/dev/kvm")) assert.equal(first.accelerator, "tcg");
  if (first.kvmFirmwareOnly) assert.equal(first.accelerator, "tcg");
  const second = await probeAccelerator({ cacheDir, ...(kernel ? { kernel } : {}) });
  assert.deepEqual(second, first);
});
