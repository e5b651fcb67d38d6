/** Both roles see the same hardware. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { qemuCommand } from "../../src/hypervisor/qemu/command-line.ts";
import { ramKiB } from "../../src/hypervisor/qemu/tcg-aids.ts";
import type { VmSpec } from "../../src/hypervisor/vm-spec.ts";

const spec: VmSpec = {
  name: "vm1",
  uuid: "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10",
  machine: "q35",
  cpu: "qemu64",
  vcpus: 2,
  memoryMiB: 256,
  nics: [{ mac: "52:54:00:00:00:01", tap: "t0" }],
  disks: [],
  boot: { kind: "firmware" },
  extraArgs: ["-device", "virtio-rng-pci"],
};

/** The values of one option. */
function values(command: string[], option: string): (string | undefined)[] {
  return command.flatMap((word, i) => (word === option ? [command[i + 1]] : []));
}

test("primary and standby have the same devices in the same order", () => {
  const base = { accelerator: "kvm", qmpSockets: ["/a", "/b"], ramFile: "/r" } as const;
  const primary = qemuCommand(spec, { ...base, role: "primary", serialLog: "/s" });
  const standby = qemuCommand(spec, { ...base, role: "standby" });
  for (const option of ["-device", "-machine", "-m", "-cpu", "-smp", "-serial", "-object"])
    assert.deepEqual(values(primary, option), values(standby, option), option);
  assert.deepEqual(values(standby, "-incoming"), ["defer"]);
  // Loaded is not running: it waits for the arbiter's word.
  assert.ok(standby.includes("-S"));
  assert.deepEqual(values(primary, "-incoming"), []);
  assert.ok(!primary.includes("-S") && !primary.includes("-no-reboot"));
  assert.deepEqual(primary.slice(-2), spec.extraArgs);
});

test("guest RAM is called the same in the stream, whether it is a file or not, with machine types of any age", () => {
  const ram = { role: "standby", accelerator: "kvm", qmpSockets: ["/a", "/b"], ramFile: "/r" } as const;
  const [object] = values(qemuCommand({ ...spec, machine: "pc-i440fx-2.12" }, ram), "-object");
  assert.match(object!, /^memory-backend-file,id=pc\.ram,x-use-canonical-path-for-ramblock-id=off,/);
});

test("properties behind the machine type reach QEMU as properties", () => {
  const base = { role: "primary", accelerator: "kvm", qmpSockets: ["/a", "/b"] } as const;
  const command = qemuCommand({ ...spec, machine: "q35,smm=on" }, base);
  assert.deepEqual(values(command, "-machine"), ["q35,smm=on,accel=kvm"]);
});

test("a standby without a RAM file is refused", () => {
  assert.throws(
    () => qemuCommand(spec, { role: "standby", accelerator: "kvm", qmpSockets: ["/a", "/b"] }),
    /vm1/,
  );
});

test("only under TCG the RAM size is no multiple of 256 KiB", () => {
  for (const memoryMiB of [64, 256, 2048]) {
    assert.equal(ramKiB(memoryMiB, "kvm"), memoryMiB * 1024);
    assert.equal(ramKiB(memoryMiB, "tcg") % 256, 8);
  }
});

test("disks: same devices for both roles, whatever the path", (t) => {
  const dir = mkdtempSync(join(tmpdir(), "remus-disks-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const [one, two] = [join(dir, "one"), join(dir, "two, with a comma")];
  for (const path of [one, two]) writeFileSync(path, "");
  const disk = { format: "raw", bus: "virtio-blk", storage: "replicated", durability: "strict" } as const;
  const scsi = { ...disk, format: "qcow2", bus: "virtio-scsi", virtio: "legacy" } as const;
  const vm = {
    ...spec,
    disks: [
      { ...disk, image: one },
      { ...scsi, image: two },
    ],
  };
  const elsewhere = {
    ...spec,
    disks: [
      { ...disk, image: two },
      { ...scsi, image: one },
    ],
  };
  const base = { accelerator: "kvm", qmpSockets: ["/a", "/b"], ramFile: "/r" } as const;
  const primary = qemuCommand(vm, { ...base, role: "primary" });
  assert.deepEqual(values(primary, "-device").slice(-4, -1), [
    "virtio-scsi-pci,id=scsi0,num_queues=1,disable-legacy=off,disable-modern=on",
    "virtio-blk-pci,id=vdisk0,drive=disk0,serial=disk0,logical_block_size=512,physical_block_size=512,bootindex=0,num-queues=1",
    "scsi-hd,bus=scsi0.0,scsi-id=1,id=vdisk1,drive=disk1,serial=disk1,logical_block_size=512,physical_block_size=512,bootindex=1",
  ]);
  assert.deepEqual(
    values(primary, "-device"),
    values(qemuCommand(elsewhere, { ...base, role: "standby" }), "-device"),
  );
  const [lower, upper] = values(primary, "-blockdev")
    .slice(2)
    .map((text) => JSON.parse(text!) as Record<string, unknown>);
  assert.deepEqual([lower!.filename, upper!.driver, upper!.file], [two, "qcow2", "disk1-file"]);
});
