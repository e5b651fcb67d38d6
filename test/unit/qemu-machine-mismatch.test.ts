/**
 * "Nothing is protected that cannot be failed over": what differs between the hosts of a VM is named before a
 * byte of it is taken in. Here over given facts; with real QEMUs in test/e2e/machine-fit.test.ts.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type FeatureWord, featureNames, registerName } from "../../src/hypervisor/qemu/cpu-features.ts";
import { deviceName, parseDeviceTree } from "../../src/hypervisor/qemu/device-tree.ts";
import type { DiskImageFacts } from "../../src/hypervisor/qemu/disk-image.ts";
import { bootFingerprint, type Fingerprint, fingerprint } from "../../src/hypervisor/qemu/fingerprint.ts";
import { compareMachines } from "../../src/hypervisor/qemu/machine-mismatch.ts";
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

const running: Fingerprint = {
  "machine type": "pc-q35-7.2",
  "CPU's family": 15,
  "CPUID 7.0 EBX": 2 ** 31 + 2 ** 5,
  'device virtio-net-pci "nic0" on pcie.0 02.0': 1,
  "drive vdisk0": "1048576 bytes",
  "RAM block pc.ram": 268435456,
  "RAM block 0000:00:02.0/virtio-net-pci.rom": 262144,
  "firmware file bios-256k.bin (sha256)": "11",
  "firmware file efi-virtio.rom (sha256)": "22",
};

function print(
  vm: VmSpec = spec,
  host: {
    accelerator?: "kvm" | "tcg";
    qemuVersion?: string;
    qemuPackage?: string;
    images?: readonly DiskImageFacts[];
    running?: Fingerprint;
  } = {},
): Fingerprint {
  const usual = {
    accelerator: "kvm",
    qemuVersion: "7.2.22",
    qemuPackage: "Debian",
    images: [],
    running,
  } as const;
  return fingerprint(vm, { ...usual, boot: bootFingerprint(vm), ...host });
}

function refusal(backup: Fingerprint, primary = print()): string | undefined {
  return compareMachines(primary, backup).refusal;
}

/** As the backup tells of it. A value of undefined takes the field away. */
function backupWith(changes: Readonly<Record<string, string | number | undefined>>, host = {}): Fingerprint {
  const all = Object.entries({ ...running, ...changes }).filter(([, value]) => value !== undefined);
  return print(spec, { running: Object.fromEntries(all) as Fingerprint, ...host });
}

test("one image that both hosts see is never replicated onto itself, whichever disk it is of (I2)", () => {
  const disk = { format: "raw", bus: "virtio-blk", durability: "strict" } as const;
  const vm = (storage: "replicated" | "shared") => ({
    ...spec,
    disks: ["a", "b"].map((image) => ({ ...disk, image, storage })),
  });
  const images = (...identities: (string | undefined)[]) => ({
    images: identities.map((identity) => ({
      kind: "file" as const,
      virtualBytes: 512,
      allocatedBytes: 0,
      ...(identity === undefined ? {} : { identity }),
    })),
  });
  const primary = print(vm("replicated"), images("file 1", "file 2"));
  const sentence = refusal(print(vm("replicated"), images("file 3", "file 1")), primary)!;
  assert.match(
    sentence,
    /image of disks\[1\] at the backup is that of disks\[0\] at the primary.*storage: shared/,
  );
  assert.equal(refusal(print(vm("replicated"), images("file 3", "file 4")), primary), undefined);
  assert.equal(refusal(print(vm("replicated"), images(undefined, undefined)), primary), undefined);
  const shared = print(vm("shared"), images("file 1", "file 2"));
  assert.equal(refusal(shared, shared), undefined);
});

test("what extra arguments give to the guest is compared by its contents, wherever its path stands (I4)", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "remus-files-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "file");
  for (const extraArgs of [
    ["-drive", `file=${path},format=raw,readonly=on,if=virtio`],
    ["-drive", `driver=raw,file.driver=file,file.filename=${path},read-only=on`],
    ["-blockdev", `{"driver":"raw","read-only":true,"file":{"driver":"file","filename":"${path}"}}`],
    ["-blockdev", `driver=file,filename=${path},node-name=n,read-only=on`],
    ["-cdrom", path],
    ["-fw_cfg", `name=opt/org.example/x,file=${path}`],
    ["-acpitable", `sig=SLIC,data=/etc/hostname:${path}`],
    ["-smbios", `type=11,path=${path}`],
    ["-option-rom", path],
    ["-boot", `menu=on,splash=${path}`],
  ]) {
    const vm = { ...spec, extraArgs };
    writeFileSync(path, "one");
    const primary = print(vm);
    assert.equal(refusal(print(vm), primary), undefined);
    writeFileSync(path, "two");
    assert.match(refusal(print(vm), primary) ?? "", /file .*file of vm\.extraArgs is/, extraArgs.join(" "));
    rmSync(path);
    assert.match(refusal(print(vm), primary) ?? "", /cannot be read: ENOENT/, extraArgs.join(" "));
  }
  // A server's is the server's.
  const vm = {
    ...spec,
    extraArgs: ["-drive", "file=nbd://10.0.0.1/x,readonly=on", "-option-rom", "pxe.rom"],
  };
  assert.deepEqual(
    Object.keys(print(vm)).filter((key) => key.startsWith("file ")),
    [],
  );
});

test("a tap at the backup that lets smaller frames through is told of, and does not stand in the way", () => {
  const mtu = (bytes: number, host = {}) => ({ ...print(spec, host), "MTU of the tap of nics[0]": bytes });
  const { refusal, warning } = compareMachines(mtu(9000), mtu(1500));
  assert.equal(refusal, undefined);
  assert.match(warning!, /nics\[0\] is 9000 at the primary and 1500 at the backup.*larger frames/);
  assert.deepEqual(compareMachines(mtu(1500), mtu(9000)), { refusal: undefined, warning: undefined });
  assert.match(compareMachines(mtu(9000), mtu(1500, { qemuPackage: "x" })).warning!, /9000.*package/s);
  assert.match(
    compareMachines(mtu(9000), mtu(1500, { qemuVersion: "9.0.0" })).warning!,
    /no way back.*9000/s,
  );
});

test("equal VMs fit; taps, the case of MACs and how the machine type is written are the host's own affair", () => {
  const nics = [{ mac: "52:54:00:00:00:01".toUpperCase(), tap: "other" }];
  assert.deepEqual(compareMachines(print(), print({ ...spec, nics, machine: "pc-q35-7.2" })), {
    refusal: undefined,
    warning: undefined,
  });
});

for (const [field, change] of [
  ["vcpus", { vcpus: 1 }],
  ["ramKiB", { memoryMiB: 512 }],
  ["nics", { nics: [] }],
  ["nics[0].mac", { nics: [{ mac: "52:54:00:00:00:02", tap: "t0" }] }],
  ["machine options", { machine: "q35,smm=off" }],
  ["extraArgs", { extraArgs: [] }],
] as const)
  test(`a different ${field} is named, with both values`, () => {
    const theirs = print({ ...spec, ...change });
    const sentence = refusal(theirs)!;
    assert.ok(sentence.includes(`${field} is ${JSON.stringify(print()[field])} at the primary`), sentence);
    assert.ok(sentence.includes(`${JSON.stringify(theirs[field])} at the backup`), sentence);
  });

for (const [what, changes, sentence] of [
  [
    "an alias for another machine type",
    { "machine type": "pc-q35-8.2" },
    /machine type is "pc-q35-7\.2".*vm\.machine/,
  ],
  [
    "a device that was plugged into the running VM",
    {
      'device virtio-net-pci "nic0" on pcie.0 02.0': undefined,
      "RAM block 0000:00:02.0/virtio-net-pci.rom": undefined,
    },
    /The running VM has the device virtio-net-pci "nic0" on pcie\.0 02\.0, and the standby has not\. Take it out.*device_del/,
  ],
  [
    "a device that was unplugged from it",
    { "device usb-tablet on usb-bus.0": 1 },
    /The standby has the device usb-tablet on usb-bus\.0, and the running VM has not: it was unplugged/,
  ],
  [
    "a disk that was resized",
    { "drive vdisk0": "2097152 bytes" },
    /drive vdisk0 is "1048576 bytes".*"2097152 bytes"/,
  ],
  [
    "a RAM block of another size",
    { "RAM block pc.ram": 1 },
    /RAM block pc\.ram is 268435456 at the primary and 1 /,
  ],
  [
    "a boot ROM of another size",
    { "RAM block 0000:00:02.0/virtio-net-pci.rom": 524288, "firmware file efi-virtio.rom (sha256)": "33" },
    /firmware is not the same.*efi-virtio\.rom.*ipxe-qemu/,
  ],
  [
    "another BIOS of the same size",
    { "firmware file bios-256k.bin (sha256)": "33" },
    /bios-256k\.bin.*seabios/,
  ],
  [
    "a CPU that has less, and more",
    { "CPUID 7.0 EBX": 2 ** 5 + 2 ** 3 },
    /CPU is not the same.*only at the primary: avx512vl; only at the backup: bmi1\)/,
  ],
  ["a CPU of another family", { "CPU's family": 6 }, /CPU's family is 15 at the primary and 6 at the backup/],
] as const)
  test(`the machine as it runs: ${what} is refused by its name`, () => {
    assert.match(refusal(backupWith(changes))!, sentence);
  });

test("the accelerator is compared, and another package of the same version is told", () => {
  assert.match(refusal(print(spec, { accelerator: "tcg" }))!, /accelerator is "kvm"/);
  const { refusal: none, warning } = compareMachines(print(), print(spec, { qemuPackage: "Debian u19" }));
  assert.equal(none, undefined);
  assert.match(warning!, /package "Debian" at the primary and "Debian u19" at the backup/);
});

test("a newer QEMU at the backup is allowed with the same machine type, an older one is not", () => {
  const newer = { qemuVersion: "10.0.13", qemuPackage: "Debian 13" };
  const own = {
    "firmware file bios-256k.bin (sha256)": "33",
    "RAM block /rom@etc/acpi/tables": 1,
    "device vmport on isa.0": 1,
    "CPU's level": 14,
    "CPUID 7.0 EBX": 2 ** 31 + 2 ** 5 + 2 ** 3,
  };
  const comparison = compareMachines(print(), backupWith(own, newer));
  assert.equal(comparison.refusal, undefined);
  assert.match(comparison.warning!, /7\.2\.22 at the primary and 10\.0\.13 at the backup.*no way back/);
  for (const [changes, sentence] of [
    [{ "machine type": "pc-q35-10.0" }, /machine type/],
    [{ "RAM block 0000:00:02.0/virtio-net-pci.rom": 524288 }, /virtio-net-pci\.rom is 262144/],
    [{ 'device virtio-net-pci "nic0" on pcie.0 02.0': undefined }, /has the device virtio-net-pci/],
    [{ "CPUID 7.0 EBX": 2 ** 5 }, /only at the primary: avx512vl\)/],
    [{ "drive vdisk0": "2097152 bytes" }, /drive vdisk0/],
  ] as const)
    assert.match(refusal(backupWith(changes, newer))!, sentence);
  assert.match(
    refusal(print(), print(spec, newer))!,
    /backup's QEMU is older.*10\.0\.13.*7\.2\.22.*Upgrade the backup's/,
  );
  assert.match(refusal(print(spec, { qemuVersion: "7.2.9" }))!, /backup's QEMU is older/);
});

test("kernels are compared by content, not by path", (t) => {
  const dir = mkdtempSync(join(tmpdir(), "remus-fingerprint-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const withKernel = (name: string, content: string): VmSpec => {
    const kernel = join(dir, name);
    writeFileSync(kernel, content);
    return { ...spec, boot: { kind: "kernel", kernel, initrd: kernel, append: "" } };
  };
  const ours = print(withKernel("a", "linux"));
  assert.equal(refusal(print(withKernel("b", "linux")), ours), undefined);
  assert.match(refusal(print(withKernel("c", "linux 2")), ours)!, /boot\.kernel/);
});

test("disks: what the guest can see of them is compared, whatever the path", () => {
  const disk = { format: "raw", bus: "virtio-blk", storage: "replicated", durability: "strict" } as const;
  const scsi = { ...disk, format: "qcow2", bus: "virtio-scsi", virtio: "legacy" } as const;
  const withDisks = (one: string, two: string): VmSpec => ({
    ...spec,
    disks: [
      { ...disk, image: one },
      { ...scsi, image: two },
    ],
  });
  const vm = withDisks("/one", "/two");
  const facts = { kind: "file", virtualBytes: 1 << 20, allocatedBytes: 0 } as const;
  const images = [facts, { ...facts, clusterBytes: 65536 }];
  const ours = print(vm, { images });
  assert.equal(refusal(print(withDisks("/two", "/one"), { images }), ours), undefined);
  const larger = print(vm, { images: [{ ...facts, virtualBytes: 2 << 20 }, images[1]!] });
  assert.match(refusal(larger, ours)!, /disks\[0\] \(bytes\) is 1048576 at the primary and 2097152/);
  const other = { ...vm, disks: [vm.disks[0]!, { ...vm.disks[1]!, bus: "virtio-blk" as const }] };
  assert.match(refusal(print(other, { images }), ours)!, /disks\[1\]\.bus/);
});

test("QEMU's device tree is read: where a device sits is told by its bus's name, not by a number that the guest gave it", () => {
  const tree = parseDeviceTree(`bus: main-system-bus
  type System
  dev: q35-pcihost, id ""
    x-config-reg-migration-enabled = true
    bus: pcie.0
      type PCIE
      dev: pcie-root-port, id "rp1"
        addr = 04.0
        class PCI bridge, addr 00:04.0, pci id 1b36:000c (sub 0000:0000)
        bus: rp1
          type PCIE
          dev: virtio-net-pci, id "hot1"
            addr = 00.0
            romfile = "efi-virtio.rom"
            class Ethernet controller, addr 01:00.0, pci id 1af4:1041
            bus: virtio-bus
              type virtio-pci-bus
              dev: virtio-net-device, id ""
                mac = "52:54:00:12:34:56"
      dev: VGA, id ""
        addr = 01.0
`);
  assert.deepEqual(tree.map(deviceName), [
    "q35-pcihost on main-system-bus",
    'pcie-root-port "rp1" on pcie.0 04.0',
    'virtio-net-pci "hot1" on rp1 00.0',
    "virtio-net-device on virtio-bus",
    "VGA on pcie.0 01.0",
  ]);
  assert.equal(tree[2]!.properties.get("romfile"), '"efi-virtio.rom"');
});

test("CPU features have their usual names, and a bit without one is told by its register", () => {
  const word: FeatureWord = {
    "cpuid-input-eax": 0x80000001,
    "cpuid-register": "EDX",
    features: 0,
  };
  assert.equal(registerName(word), "80000001 EDX");
  assert.equal(registerName({ ...word, "cpuid-input-eax": 13, "cpuid-input-ecx": 1 }), "d.1 EDX");
  const bit = (register: string, number: number) => featureNames(register, 2 ** number)[0];
  assert.equal(bit("1 EDX", 31), "pbe");
  assert.equal(bit("1 ECX", 31), "hypervisor");
  assert.equal(bit("7.0 EBX", 31), "avx512vl");
  assert.equal(bit("7.0 ECX", 31), "pks");
  assert.equal(bit("7.0 EDX", 31), "ssbd");
  assert.equal(bit("80000001 EDX", 31), "3dnow");
  assert.equal(bit("80000001 ECX", 24), "perfctr-nb");
  assert.equal(bit("80000001 ECX", 31), "bit 31 of CPUID 80000001 ECX");
  assert.equal(bit("40000001 EAX", 0), "bit 0 of CPUID 40000001 EAX");
});
