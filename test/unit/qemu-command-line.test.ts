/** Both roles see the same hardware, and a difference between the hosts is named. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fingerprint, fingerprintMismatch, qemuCommand } from "../../src/hypervisor/qemu/command-line.ts";
import type { DiskImageFacts } from "../../src/hypervisor/qemu/disk-image.ts";
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

function print(
  vm: VmSpec,
  accelerator: "kvm" | "tcg" = "kvm",
  qemuVersion = "7.2.22",
  images: readonly DiskImageFacts[] = [],
) {
  return fingerprint(vm, { accelerator, qemuVersion, images });
}

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

test("equal VMs have no mismatch; taps and the case of MACs are the host's own affair", () => {
  const other = { ...spec, nics: [{ mac: "52:54:00:00:00:01".toUpperCase(), tap: "other" }] };
  assert.equal(fingerprintMismatch(print(spec, "kvm", "7.2.22"), print(other, "kvm", "7.2.22")), undefined);
});

for (const [field, change] of [
  ["machine", { machine: "pc" }],
  ["vcpus", { vcpus: 1 }],
  ["ramKiB", { memoryMiB: 512 }],
  ["nics", { nics: [] }],
  ["nics[0].mac", { nics: [{ mac: "52:54:00:00:00:02", tap: "t0" }] }],
  ["extraArgs", { extraArgs: [] }],
] as const)
  test(`a different ${field} is named, with both values`, () => {
    const ours = print(spec, "kvm", "7.2.22");
    const theirs = print({ ...spec, ...change }, "kvm", "7.2.22");
    const sentence = fingerprintMismatch(ours, theirs)!;
    assert.ok(sentence.includes(`${field} is ${JSON.stringify(ours[field])} at the primary`), sentence);
    assert.ok(sentence.includes(`${JSON.stringify(theirs[field])} at the backup`), sentence);
  });

test("QEMU's version and accelerator are compared", () => {
  const ours = print(spec, "kvm", "7.2.22");
  assert.match(fingerprintMismatch(ours, print(spec, "kvm", "10.2.0"))!, /qemuVersion is "7.2.22"/);
  assert.match(fingerprintMismatch(ours, print(spec, "tcg", "7.2.22"))!, /accelerator is "kvm"/);
});

test("kernels are compared by content, not by path", (t: TestContext) => {
  const dir = mkdtempSync(join(tmpdir(), "remus-fingerprint-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const withKernel = (name: string, content: string): VmSpec => {
    const kernel = join(dir, name);
    writeFileSync(kernel, content);
    return { ...spec, boot: { kind: "kernel", kernel, initrd: kernel, append: "" } };
  };
  const ours = print(withKernel("a", "linux"));
  assert.equal(fingerprintMismatch(ours, print(withKernel("b", "linux"))), undefined);
  assert.match(fingerprintMismatch(ours, print(withKernel("c", "linux 2")))!, /boot\.kernel/);
});

test("disks: same devices for both roles, whatever the path; what the guest can see of them is compared", (t) => {
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
  const facts = { kind: "file", virtualBytes: 1 << 20, allocatedBytes: 0 } as const;
  const images = [facts, { ...facts, clusterBytes: 65536 }];
  const ours = print(vm, "kvm", "7.2.22", images);
  assert.equal(fingerprintMismatch(ours, print(elsewhere, "kvm", "7.2.22", images)), undefined);
  const larger = print(vm, "kvm", "7.2.22", [{ ...facts, virtualBytes: 2 << 20 }, images[1]!]);
  assert.match(
    fingerprintMismatch(ours, larger)!,
    /disks\[0\] \(bytes\) is 1048576 at the primary and 2097152/,
  );
  const other = { ...vm, disks: [vm.disks[0]!, { ...vm.disks[1]!, bus: "virtio-blk" as const }] };
  assert.match(fingerprintMismatch(ours, print(other, "kvm", "7.2.22", images))!, /disks\[1\]\.bus/);
});
