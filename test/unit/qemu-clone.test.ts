import assert from "node:assert/strict";
import { test } from "node:test";
import { confined, cutOff } from "../../src/hypervisor/qemu/clone.ts";
import { cloneArguments } from "../../src/hypervisor/qemu/clone-args.ts";
import { qemuCommand } from "../../src/hypervisor/qemu/command-line.ts";
import type { VmSpec } from "../../src/hypervisor/vm-spec.ts";

const SPEC: VmSpec = {
  name: "vm",
  uuid: "0b9f51c6-2a5e-4f63-9d6c-7f0a11d2c3e4",
  machine: "pc",
  cpu: "qemu64",
  vcpus: 1,
  memoryMiB: 64,
  nics: [{ mac: "52:54:00:12:34:56", tap: "tap7" }],
  disks: [
    {
      image: "/images/real.qcow2",
      format: "qcow2",
      bus: "virtio-blk",
      storage: "replicated",
      durability: "strict",
    },
  ],
  boot: { kind: "firmware" },
  extraArgs: ["-device", "virtio-rng-pci", "-qmp", "unix:/run/admin.sock,server=on"],
};
const PLACES = {
  role: "standby",
  accelerator: "tcg",
  qmpSockets: ["/t/a", "/t/b"],
  ramFile: "/t/ram",
  serialLog: "/real/serial.log",
  clone: {
    monitorSocket: "/t/monitor",
    vncSocket: "/t/vnc",
    serialSocket: "/t/serial",
    diskSocket: "/t/disks",
    serialLog: "/t/log",
  },
} as const;

test("a clone has the standby's devices, and nothing of the host's but what is its own", () => {
  const clone = qemuCommand(SPEC, PLACES);
  const text = clone.join("\n");
  for (const real of ["/images", "/real", "/run/admin.sock"]) assert.ok(!text.includes(real), real);
  assert.match(text, /file\.server\.path=\/t\/disks,file\.export=disk0,snapshot=on/);
  const devices = (command: readonly string[]) =>
    command.filter((_, index) => command[index - 1] === "-device");
  const original = qemuCommand({ ...SPEC, disks: [{ ...SPEC.disks[0]!, image: "/dev/null" }] }, {
    ...PLACES,
    clone: undefined,
  } as never);
  assert.deepEqual(devices(clone), devices(original));
});

test("it runs in a network of its own, with its taps and nothing else, behind everything that wants the processor", () => {
  const words = confined(SPEC, "/t/disks");
  assert.deepEqual(words.slice(0, 7), ["env", "TMPDIR=/t/disks", "nice", "-n", "19", "unshare", "--net"]);
  assert.match(words.at(-2)!, /tuntap add dev 'tap7' mode tap vnet_hdr/);
  assert.ok(!/master|veth|netns/.test(words.join(" ")));
});

test("extra arguments: what the guest sees stays, what leads out leads nowhere, and what is not known is refused", () => {
  const seen = [
    "-device",
    "usb-tablet",
    "-rtc",
    "base=utc",
    "-object",
    "rng-random,id=r,filename=/dev/urandom",
  ];
  assert.deepEqual(cloneArguments(seen), seen);
  assert.deepEqual(cloneArguments(["-chardev", "socket,id=c0,path=/x,server=on", "-serial", "chardev:c0"]), [
    ...["-chardev", "null,id=c0", "-serial", "chardev:c0"],
  ]);
  assert.deepEqual(cloneArguments(["-serial", "tcp::4444,server", "-monitor", "stdio", "-s", "-D", "/log"]), [
    "-serial",
    "null",
  ]);
  assert.deepEqual(cloneArguments(["-spice", "port=5900", "-audiodev", "pa,id=a", "-net", "none"]), [
    ...["-audiodev", "none,id=a", "-net", "none"],
  ]);
  // Its RAM is a private mapping: all of it touched or locked would be taken a second time.
  assert.deepEqual(
    cloneArguments(["-mem-prealloc", "-overcommit", "mem-lock=on,cpu-pm=on", "-overcommit", "mem-lock=on"]),
    ["-overcommit", "cpu-pm=on"],
  );
  for (const args of [
    ["-object", "memory-backend-file,id=m,mem-path=/x,share=on"],
    ["-nic", "user"],
    ["-netdev", "user,id=u"],
  ])
    assert.throws(() => cloneArguments(args), /leads out of a test failover's clone is not known/);
});

test("an ordinary user has a network of his own only as root of a user namespace of his own", (t) => {
  t.mock.method(process as Required<typeof process>, "geteuid", () => 1000);
  assert.deepEqual(cutOff(SPEC).slice(0, 5), ["unshare", "--user", "--map-root-user", "--net", "--"]);
});
