/**
 * "Nothing is protected that cannot be failed over": real QEMUs are asked what machine they are, one as the
 * primary's and one as the standby, and what differs has its name.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { hasColo } from "../../src/hypervisor/qemu/colo-support.ts";
import { compareMachines } from "../../src/hypervisor/qemu/machine-mismatch.ts";
import { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import { runningMachine } from "../../src/hypervisor/qemu/running-machine.ts";
import { machineTypes } from "./machine-types.ts";

const card = ["-netdev", "user,id=net0", "-device", "virtio-net-pci,id=nic0,netdev=net0"];
const standby = ["-S", "-incoming", "defer"];

interface Started {
  readonly qmp: Qmp;
  readonly pid: number;
}

async function start(t: TestContext, machine: string, ...args: string[]): Promise<Started> {
  const dir = await mkdtemp(join(tmpdir(), "remus-fit-"));
  const socket = join(dir, "qmp");
  const qemu = spawn(
    "qemu-system-x86_64",
    [
      ...["-nodefaults", "-no-user-config", "-display", "none", "-m", "32"],
      ...["-machine", `${machine},accel=tcg`, "-qmp", `unix:${socket},server=on,wait=off`, ...args],
    ],
    { stdio: ["ignore", "inherit", "inherit"] },
  );
  t.after(async () => {
    const gone = once(qemu, "exit");
    if (qemu.exitCode === null && qemu.kill("SIGKILL")) await gone;
    await rm(dir, { recursive: true });
  });
  const qmp = await Qmp.connect(socket);
  t.after(() => qmp.close());
  return { qmp, pid: qemu.pid! };
}

async function refusal(primary: Started, backup: Started): Promise<string | undefined> {
  const [ours, theirs] = [primary, backup].map(({ pid, qmp }) => runningMachine(qmp, pid));
  return compareMachines(await ours!, await theirs!).refusal;
}

test("a running machine fits its standby, and a card that another monitor plugs in is named", async (t) => {
  const primary = await start(t, "q35", "-device", "pcie-root-port,id=rp1", ...card);
  const backup = await start(t, "q35", "-device", "pcie-root-port,id=rp1", ...card, ...standby);
  assert.equal(await refusal(primary, backup), undefined);
  await primary.qmp.execute("netdev_add", { type: "user", id: "extra" });
  await primary.qmp.execute("device_add", {
    driver: "virtio-net-pci",
    id: "hot1",
    netdev: "extra",
    bus: "rp1",
  });
  assert.match(
    (await refusal(primary, backup))!,
    /The running VM has the device virtio-net-pci "hot1" on rp1 00\.0, and the standby has not/,
  );
  assert.match((await refusal(backup, primary))!, /The standby has the device virtio-net-pci "hot1"/);
});

test("memory that is plugged in, and a medium that is changed, are named", async (t) => {
  const args = ["-m", "32,slots=2,maxmem=1G", "-device", "virtio-scsi-pci", "-device", "scsi-cd,id=cd0"];
  const primary = await start(t, "pc", ...args);
  const backup = await start(t, "pc", ...args, ...standby);
  assert.equal(await refusal(primary, backup), undefined);
  const iso = join(await mkdtemp(join(tmpdir(), "remus-fit-iso-")), "iso");
  t.after(() => rm(join(iso, ".."), { recursive: true }));
  await writeFile(iso, Buffer.alloc(1 << 20));
  await primary.qmp.execute("blockdev-change-medium", { id: "cd0", filename: iso });
  assert.match((await refusal(primary, backup))!, /drive cd0 is "1048576 bytes, read-only".*"no medium"/);
  await backup.qmp.execute("blockdev-change-medium", { id: "cd0", filename: iso });
  assert.equal(await refusal(primary, backup), undefined);
  await primary.qmp.execute("object-add", { "qom-type": "memory-backend-ram", id: "more", size: 128 << 20 });
  await primary.qmp.execute("device_add", { driver: "pc-dimm", id: "dimm1", memdev: "more" });
  assert.match((await refusal(primary, backup))!, /The running VM has the device dimm "dimm1"/);
});

test("a boot ROM of another size or with other contents is named", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "remus-fit-rom-"));
  t.after(() => rm(dir, { recursive: true }));
  const rom = Buffer.alloc(512 << 10);
  rom.set([0x55, 0xaa, 1]);
  await writeFile(join(dir, "efi-virtio.rom"), rom);
  const primary = await start(t, "pc", ...card);
  const backup = await start(t, "pc", "-L", dir, ...card, ...standby);
  assert.match((await refusal(primary, backup))!, /firmware is not the same.*efi-virtio\.rom.*ipxe-qemu/);
});

const beforeFour = ["pc-i440fx-3.1", "pc-q35-3.1", "pc-i440fx-2.12"];
const offered = [...machineTypes("pc-i440fx"), ...machineTypes("pc-q35")];

test("machine types from before 4.0 call their RAM as the others do", async (t) => {
  const machines = beforeFour.filter((machine) => offered.includes(machine));
  if (machines.length === 0) return t.skip("this QEMU has no machine type from before 4.0");
  const file = join(await mkdtemp("/dev/shm/remus-fit-"), "ram");
  t.after(() => rm(join(file, ".."), { recursive: true }));
  const backend = `memory-backend-file,id=pc.ram,x-use-canonical-path-for-ramblock-id=off,mem-path=${file},size=32M,share=on`;
  for (const machine of machines) {
    const primary = await start(t, machine);
    const backup = await start(t, `${machine},memory-backend=pc.ram`, "-object", backend, ...standby);
    assert.equal(await refusal(primary, backup), undefined, machine);
  }
});

test("what the guest's CPU lacks at the backup is named, however the model is written", async (t) => {
  const primary = await start(t, "pc", "-cpu", "qemu64,+avx2");
  const backup = await start(t, "pc", "-cpu", "qemu64", ...standby);
  assert.match((await refusal(primary, backup))!, /CPU is not the same.*only at the primary:.* avx2/);
  const same = await start(t, "pc", "-cpu", "qemu64,avx2=on", ...standby);
  assert.equal(await refusal(primary, same), undefined);
});

test("Debian's QEMU has COLO, and asking leaves nothing behind", async (t) => {
  const { qmp } = await start(t, "pc");
  assert.equal(await hasColo(qmp), true);
  type Capability = { capability: string; state: boolean };
  const capabilities = await qmp.execute<Capability[]>("query-migrate-capabilities");
  assert.equal(capabilities.find(({ capability }) => capability === "x-colo")?.state, false);
});
