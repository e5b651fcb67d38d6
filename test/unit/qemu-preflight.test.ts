/** The judgement of preflight over given facts: what no machine at hand can show for real. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { HostFacts } from "../../src/hypervisor/qemu/host-facts.ts";
import { judge, type StaticQuestion } from "../../src/hypervisor/qemu/preflight.ts";
import type { VmSpec } from "../../src/hypervisor/vm-spec.ts";

const spec: VmSpec = {
  name: "vm1",
  uuid: "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10",
  machine: "pc",
  cpu: "qemu64",
  vcpus: 1,
  memoryMiB: 256,
  nics: [{ mac: "52:54:00:00:00:01", tap: "t0" }],
  disks: [],
  boot: { kind: "kernel", kernel: "/k", initrd: "/i", append: "" },
  extraArgs: [],
};
const tap = {
  kind: "tap",
  macs: ["fe:54:00:00:00:01", "02:00:00:00:00:01"],
  multiQueue: false,
  up: true,
  busy: false,
  owner: undefined,
  group: undefined,
} as const;
const host: HostFacts = {
  qemu: { binary: "qemu", version: { major: 7, minor: 2, micro: 22 }, problem: "" },
  gcc: true,
  links: new Map([["t0", tap]]),
  tun: "open",
  netAdmin: true,
  userId: 1000,
  groupIds: [1000, 27],
  runDirectory: "open",
  files: new Map([
    ["/k", "open"],
    ["/i", "open"],
  ]),
  memAvailableMiB: 1000,
};
const kvm: StaticQuestion = {
  accelerator: { accelerator: "kvm", reason: "KVM runs Linux here", kvmFirmwareOnly: false },
  wanted: "auto",
  runDirectory: "/run/remus",
  runsHere: true,
};
const noKvm = { accelerator: "tcg", reason: "there is no /dev/kvm", kvmFirmwareOnly: false } as const;

function codes(changes: {
  spec?: Partial<VmSpec>;
  question?: Partial<StaticQuestion>;
  host?: Partial<HostFacts>;
}) {
  const findings = judge(
    { ...spec, ...changes.spec },
    { ...kvm, ...changes.question },
    { ...host, ...changes.host },
  );
  return findings.map(({ severity, code }) => `${severity} ${code}`);
}

for (const [what, changes, found] of [
  ["nothing wrong", {}, []],
  ["no KVM", { question: { accelerator: noKvm } }, ["warning slow"]],
  ["no KVM, and insisted on", { question: { accelerator: noKvm, wanted: "kvm" } }, ["error no-kvm"]],
  [
    "KVM for firmware only, and insisted on",
    { question: { accelerator: { ...noKvm, kvmFirmwareOnly: true }, wanted: "kvm" } },
    ["warning kvm-firmware-only"],
  ],
  ["TCG asked for", { question: { wanted: "tcg" } }, []],
  ["TCG asked for, without gcc", { question: { wanted: "tcg" }, host: { gcc: false } }, ["error no-gcc"]],
  [
    "TCG asked for, without gcc, with a QEMU that needs no library",
    {
      question: { wanted: "tcg" },
      host: { gcc: false, qemu: { binary: "qemu", version: { major: 11, minor: 0, micro: 2 }, problem: "" } },
    },
    [],
  ],
  ["KVM, without gcc", { host: { gcc: false } }, []],
  ["a tap that is down", { host: { links: new Map([["t0", { ...tap, up: false }]]) } }, ["warning tap-down"]],
  [
    "a tap of another user",
    { host: { netAdmin: false, links: new Map([["t0", { ...tap, owner: 33 }]]) } },
    ["error no-net-admin"],
  ],
  [
    "a tap of another group",
    { host: { netAdmin: false, links: new Map([["t0", { ...tap, owner: 1000, group: 33 }]]) } },
    ["error no-net-admin"],
  ],
  [
    "a tap that belongs to the user",
    { host: { netAdmin: false, links: new Map([["t0", { ...tap, owner: 1000 }]]) } },
    ["warning few-net-rights"],
  ],
  [
    "a tap that belongs to one of the user's groups",
    { host: { netAdmin: false, links: new Map([["t0", { ...tap, group: 27 }]]) } },
    ["warning few-net-rights"],
  ],
  ["a tap that belongs to nobody", { host: { netAdmin: false } }, ["warning few-net-rights"]],
  ["no tun device", { host: { tun: "missing" } }, ["error no-tun"]],
  ["no tun device, and no card", { host: { tun: "missing" }, spec: { nics: [] } }, []],
  ["a processor of another host", { spec: { cpu: "host,+x2apic" } }, ["warning cpu-host"]],
  ["little memory", { host: { memAvailableMiB: 300 } }, ["error memory"]],
  ["little memory, at the backup", { host: { memAvailableMiB: 300 }, question: { runsHere: false } }, []],
  ["an unreadable initrd", { host: { files: new Map([["/i", "closed"]]) } }, ["error boot-file"]],
  [
    "a dirty ring",
    { spec: { extraArgs: ["-accel", "kvm,dirty-ring-size=4096"] } },
    ["error qemu-dirty-ring", "error reserved-argument"],
  ],
] as const)
  test(`preflight judges: ${what}`, () => {
    assert.deepEqual(codes(changes as Parameters<typeof codes>[0]), found);
  });

test("an address of a card that its tap or bridge has itself is found: the guest would be reached by nobody", () => {
  for (const mac of ["FE:54:00:00:00:01", "02:00:00:00:00:01"])
    assert.deepEqual(codes({ spec: { nics: [{ mac, tap: "t0" }] } }), ["error tap-mac"]);
});
