/** Extra QEMU arguments that would break protection are refused; harmless ones are not. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { asksForDirtyRing, extraArgsFindings } from "../../src/hypervisor/qemu/extra-args.ts";

for (const [expected, ...args] of [
  ["vhost", "-netdev", "tap,id=n,vhost=on"],
  ["vhost", "-netdev", "vhost-user,id=n,chardev=c"],
  ["vhost", "-device", "vhost-vsock-pci,guest-cid=3"],
  ["multiqueue", "-netdev", "tap,id=n,queues=2"],
  ["multiqueue", "--device", "virtio-net-pci,mq=on"],
  ["extra-nic", "-nic", "user"],
  ["extra-nic", "-device", "e1000,netdev=n"],
  ["vfio", "-device", "vfio-pci,host=01:00.0"],
  ["vfio", "-device", '{"driver":"vfio-pci","host":"01:00.0"}'],
  ["vfio", "-device", "driver=vfio-pci,host=01:00.0"],
  ["ivshmem", "-device", "ivshmem-plain,memdev=m"],
  ["shared-directory", "-virtfs", "local,path=/srv,mount_tag=t,security_model=none"],
  ["shared-directory", "-device", "virtio-9p-pci,fsdev=f,mount_tag=t"],
  ["unmigratable", "-device", "usb-host,hostbus=1"],
  ["unprotected-disk", "-drive", "file=a.img,if=virtio"],
  ["unprotected-disk", "-blockdev", '{"driver":"file","node-name":"a","filename":"a"}'],
  ["reserved-argument", "-incoming", "defer"],
  ["reserved-argument", "-S"],
  ["reserved-argument", "-enable-kvm"],
  ["unheld-output", "-chardev", "socket,id=c,path=/s"],
] as const)
  test(`${args.join(" ")}: ${expected}`, () => {
    const found = extraArgsFindings(["-device", "virtio-rng-pci", ...args, "-rtc", "base=utc"]);
    assert.deepEqual(
      found.map(({ code }) => code),
      [expected],
    );
    assert.ok(found[0]!.message.includes(args.at(-1)!), found[0]!.message);
  });

test("harmless arguments are let pass", () => {
  for (const args of [
    ["-device", "virtio-rng-pci"],
    ["-drive", "file=vfio-pci,,vhost=on.img,if=virtio,readonly=on"],
    ["-blockdev", '{"driver":"file","node-name":"a","filename":"a","read-only":true}'],
    ["-rtc", "base=utc", "-vga", "std"],
    [],
  ])
    assert.deepEqual(extraArgsFindings(args), [], args.join(" "));
});

test("a dirty ring is seen in -accel, and only there", () => {
  assert.equal(asksForDirtyRing(["-accel", "kvm,dirty-ring-size=4096"]), true);
  assert.equal(asksForDirtyRing(["-accel", "kvm,dirty-ring-size=0"]), false);
  assert.equal(asksForDirtyRing(["-name", "dirty-ring-size=4096"]), false);
});
