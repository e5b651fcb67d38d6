/**
 * What a VM has beside cards and disks: the same devices on both hosts, ends of each host's own, and all ways
 * out named (I1).
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { withFlash } from "../../src/guardian/disks/flash-memory.ts";
import { qemuCommand } from "../../src/hypervisor/qemu/command-line.ts";
import { sampleDigest } from "../../src/hypervisor/qemu/file-digest.ts";
import { endFindings, peripheralFingerprint } from "../../src/hypervisor/qemu/peripherals.ts";
import type { VmSpec } from "../../src/hypervisor/vm-spec.ts";

const bare: VmSpec = {
  name: "vm1",
  uuid: "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10",
  machine: "q35",
  cpu: "qemu64",
  vcpus: 4,
  memoryMiB: 256,
  nics: [],
  disks: [],
  boot: { kind: "firmware" },
  extraArgs: [],
};

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "remus-peripherals-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Everything, with this host's files in a folder whose name QEMU's lists would stumble over. */
function full(place: string): VmSpec {
  const at = (name: string) => join(place, `a, b=c "${name}`);
  for (const name of ["code", "vars", "disc"]) writeFileSync(at(name), Buffer.alloc(4096));
  const store = { format: "raw", bus: "pflash", storage: "replicated", durability: "strict" } as const;
  return {
    ...bare,
    topology: { sockets: 1, cores: 2, threads: 2 },
    uefi: { code: at("code") },
    disks: [{ ...store, image: at("vars") }],
    cdroms: [{ image: at("disc") }, {}],
    serial: { socket: at("serial") },
    agent: at("agent"),
    vnc: at("vnc"),
  };
}

function values(command: readonly string[], option: string): string[] {
  return command.flatMap((word, i) => (word === option ? [command[i + 1]!] : []));
}

const base = { accelerator: "kvm", qmpSockets: ["/a", "/b"], ramFile: "/r" } as const;

test("both roles have the same devices, and ends of their own", (t) => {
  const [here, there] = [folder(t), folder(t)];
  const primary = qemuCommand(full(here), { ...base, role: "primary" });
  const standby = qemuCommand(full(there), { ...base, role: "standby" });
  for (const option of ["-device", "-machine", "-smp", "-serial"])
    assert.deepEqual(values(primary, option), values(standby, option), option);
  assert.deepEqual(values(primary, "-smp"), ["cpus=4,sockets=1,cores=2,threads=2"]);
  assert.ok(values(primary, "-machine").includes("pflash0=uefi-code,pflash1=disk0"));
  assert.deepEqual(
    values(primary, "-device").filter((device) => device.startsWith("ide-cd")),
    ["ide-cd,id=cdrom0,drive=disc0,bootindex=1", "ide-cd,id=cdrom1,bootindex=2"],
  );
  assert.ok(!values(primary, "-device").some((device) => device.includes("vdisk0")));
  assert.equal(values(primary, "-vnc")[0], `unix:${join(here, 'a,, b=c "vnc')}`);
  assert.ok(!standby.join("\n").includes(here));
});

test("discs and firmware are opened read-only", (t) => {
  const command = qemuCommand(full(folder(t)), { ...base, role: "primary" });
  for (const text of values(command, "-blockdev")) {
    const node = JSON.parse(text) as Record<string, unknown>;
    const name = String(node["node-name"]);
    assert.equal(node["read-only"], /^(disc|uefi)/.test(name) ? true : undefined, name);
  }
});

test("a VM without any of it has the devices that it always had", () => {
  const command = qemuCommand(bare, { ...base, role: "primary" });
  assert.deepEqual(values(command, "-device"), []);
  assert.deepEqual(values(command, "-chardev"), ["null,id=serial0"]);
  assert.deepEqual(values(command, "-smp"), ["4"]);
  assert.ok(!command.includes("-vnc"));
});

test("a serial port that leads to a file keeps its log beside it", () => {
  const command = qemuCommand(
    { ...bare, serial: { file: "/f" } },
    { ...base, role: "primary", serialLog: "/l" },
  );
  assert.deepEqual(values(command, "-chardev"), [
    "file,id=serial0,path=/f,append=on,logfile=/l,logappend=on",
  ]);
});

test("a clone has the devices, and none of the ends", (t) => {
  const place = folder(t);
  const clone = qemuCommand(full(place), {
    ...base,
    role: "standby",
    clone: { monitorSocket: "/m", vncSocket: "/v", serialSocket: "/s", diskSocket: "/d", serialLog: "/l" },
  });
  for (const end of ["serial", "agent", "vnc", "vars"])
    assert.ok(!clone.some((word) => word.includes(place) && word.includes(`"${end}`)), end);
  const standby = qemuCommand(full(place), { ...base, role: "standby" });
  assert.deepEqual(values(clone, "-device"), values(standby, "-device"));
});

test("a probe has the devices, takes no end from the standby beside it, and opens no image", (t) => {
  const place = folder(t);
  const vm = full(place);
  const probe = qemuCommand(vm, { ...base, role: "standby", probe: { diskBytes: [4096] } });
  for (const end of ["serial", "agent", "vnc", "vars"])
    assert.ok(!probe.some((word) => word.includes(place) && word.includes(end)), end);
  assert.deepEqual(
    values(probe, "-device"),
    values(qemuCommand(vm, { ...base, role: "standby" }), "-device"),
  );
  assert.ok(values(probe, "-machine").includes("pflash0=uefi-code,pflash1=disk0"));
});

test("every end that leads out is named as not held (I1)", (t) => {
  const found = endFindings(full(folder(t)));
  assert.deepEqual(
    found.map(({ code, severity, message }) => [code, severity, message.split(" ")[0]]),
    ["vm.serial", "vm.agent", "vm.vnc"].map((field) => ["unheld-output", "warning", field]),
  );
  assert.deepEqual(endFindings(bare), []);
});

test("hosts must have the same topology, firmware, discs and ports; where they lie is each one's own affair", (t) => {
  const [here, there] = [folder(t), folder(t)];
  const ours = full(here);
  const print = (vm: VmSpec) => peripheralFingerprint(vm);
  assert.deepEqual(print(ours), print(full(there)));
  const { agent: _agent, vnc: _vnc, topology: _topology, uefi: _uefi, ...less } = ours;
  for (const other of [
    { ...ours, topology: { sockets: 4, cores: 1, threads: 1 } },
    { ...ours, cdroms: [{}, {}] },
    { ...ours, cdroms: [] },
    less,
  ])
    assert.notDeepEqual(print(ours), print(other));
  const theirs = full(there);
  writeFileSync(theirs.uefi!.code, "another firmware");
  assert.notDeepEqual(print(ours), print(theirs));
});

test("a disc of 5 GiB is compared in a moment, and another one of its size is told from it", (t) => {
  const [one, two] = ["one", "two"].map((name) => join(folder(t), name)) as [string, string];
  for (const [path, text] of [
    [one, "disc"],
    [two, "dish"],
  ] as const) {
    writeFileSync(path, text);
    truncateSync(path, 5 * 2 ** 30);
  }
  assert.notEqual(sampleDigest(one), sampleDigest(two));
  writeFileSync(two, "disc");
  truncateSync(two, 5 * 2 ** 30);
  assert.equal(sampleDigest(one), sampleDigest(two));
  truncateSync(two, 5 * 2 ** 30 + 2048);
  assert.notEqual(sampleDigest(one), sampleDigest(two));
});

test("I4: a standby's flash memory is what the store's file holds, not what the first checkpoint had", (t) => {
  const file = join(folder(t), "vars");
  writeFileSync(file, Buffer.alloc(8192, "new"));
  const stale = new Uint8Array(8192);
  const side = [
    { block: { id: 1, name: "system.flash0", bytes: 4096 }, contents: new Uint8Array(4096) },
    { block: { id: 2, name: "system.flash1", bytes: 8192 }, contents: stale },
  ];
  const [code, store] = withFlash(side, file);
  assert.equal(code!.contents, side[0]!.contents);
  assert.deepEqual(Buffer.from(store!.contents), Buffer.alloc(8192, "new"));
  assert.deepEqual(withFlash(side, undefined), side);
  writeFileSync(file, "short");
  assert.throws(() => withFlash(side, file), /has 5 bytes, and the guest's flash memory 8192/);
  assert.throws(() => withFlash([side[0]!], file), /no block system\.flash1/);
});
