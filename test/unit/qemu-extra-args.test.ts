/** Extra QEMU arguments that would break protection are refused; harmless ones are not. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { asksForDirtyRing, extraArgsFindings } from "../../src/hypervisor/qemu/extra-args.ts";
import { machineFindings } from "../../src/hypervisor/qemu/machine-options.ts";

/** Findings of each, as `code severity`, in the midst of arguments that are harmless. */
function found(...args: string[]) {
  return extraArgsFindings(["-device", "virtio-rng-pci", ...args, "-rtc", "base=utc"]);
}

/** What leaves the VM past what Remus holds, or would be lost in a failover (I1, I4). */
for (const [expected, ...args] of [
  ["vhost", "-netdev", "tap,id=n,vhost=on"],
  ["vhost", "-netdev", "vhost-user,id=n,chardev=c"],
  ["vhost", "-netdev", "vhost-vdpa,id=n"],
  ["vhost", "-device", "vhost-vsock-pci,guest-cid=3"],
  ["vhost", "-device", "vhost-user-blk-pci,chardev=c"],
  ["multiqueue", "-netdev", "tap,id=n,queues=2"],
  ["multiqueue", "--device", "virtio-net-pci,mq=on"],
  ["extra-nic", "-nic", "user"],
  ["extra-nic", "-nic", "user,model=e1000"],
  ["extra-nic", "-net", "nic,model=e1000"],
  ["extra-nic", "-net", "user"],
  ["extra-nic", "-netdev", "user,id=n"],
  ["extra-nic", "-netdev", "socket,id=n,connect=:1"],
  ["extra-nic", "-netdev", "dgram,id=n"],
  ["extra-nic", "-netdev", '{"type":"user","id":"n"}'],
  ["extra-nic", "-device", "e1000,netdev=n"],
  ["extra-nic", "-device", "e1000-82545em"],
  ["extra-nic", "-device", "ne2k_isa"],
  ["extra-nic", "-device", "usb-net"],
  ["extra-nic", "-device", "i82559er"],
  ["extra-nic", "-device", "vmxnet3"],
  ["extra-nic", "-device", '{"driver":"rtl8139","netdev":"n"}'],
  ["extra-nic", "-device", "virtio-rng-pci,driver=e1000"],
  ["extra-nic", "-device", "virtio-rng-pci,netdev=n"],
  ["extra-nic", "-object", "filter-mirror,id=f,netdev=net0,queue=rx,outdev=c"],
  ["extra-nic", "-object", '{"qom-type":"filter-dump","id":"f","netdev":"net0","file":"/x"}'],
  ["vfio", "-device", "vfio-pci,host=01:00.0"],
  ["vfio", "-device", '{"driver":"vfio-pci","host":"01:00.0"}'],
  ["vfio", "-device", "driver=vfio-pci,host=01:00.0"],
  ["ivshmem", "-device", "ivshmem-plain,memdev=m"],
  ["shared-directory", "-virtfs", "local,path=/srv,mount_tag=t,security_model=none"],
  ["shared-directory", "-device", "virtio-9p-pci,fsdev=f,mount_tag=t"],
  ["unmigratable", "-device", "usb-host,hostbus=1"],
  ["unmigratable", "-device", "virtio-gpu-gl-pci"],
  ["unmigratable", "-device", "virtio-mem-pci,memdev=m"],
  ["unmigratable", "-device", "isa-debug-exit"],
  ["unmigratable", "-usbdevice", "braille"],
  ["unmigratable", "-chardev", "qemu-vdagent,id=v,clipboard=on"],
  ["unprotected-disk", "-drive", "file=a.img,if=virtio"],
  ["unprotected-disk", "-drive", "file=a.img,readonly=on,readonly=off"],
  ["unprotected-disk", "-drive", "file=a.img,readonly=on,noreadonly"],
  ["unprotected-disk", "-drive", "file=a.img,readonly=on,snapshot=on"],
  ["unprotected-disk", "-drive", "file.driver=file,file.filename=a.img"],
  ["unprotected-disk", "-drive", "if=pflash,file=vars.fd"],
  ["unprotected-disk", "-blockdev", '{"driver":"file","node-name":"a","filename":"a"}'],
  ["unprotected-disk", "-blockdev", '{"driver":"file","node-name":"a","filename":"a","read-only":false}'],
  ["unprotected-disk", "-hda", "a.img"],
  ["unprotected-disk", "-fda", "a.img"],
  ["unprotected-disk", "a.img"],
  ["reserved-argument", "-incoming", "defer"],
  ["reserved-argument", "-incoming", "-"],
  ["reserved-argument", "-S"],
  ["reserved-argument", "--S"],
  ["reserved-argument", "-enable-kvm"],
  ["reserved-argument", "-snapshot"],
  ["reserved-argument", "-daemonize"],
  ["reserved-argument", "-loadvm", "t"],
  ["reserved-argument", "-smp", "4,sockets=2"],
  ["reserved-argument", "-pflash", "vars.fd"],
  ["reserved-argument", "-machine", "q35"],
  ["reserved-argument", "-machine", "smm=on,memory-backend=m"],
  ["reserved-argument", "-machine", "confidential-guest-support=sev0"],
  ["reserved-argument", "-nographic"],
  ["reserved-argument", "-display", "vnc=:1"],
  ["reserved-argument", "-mem-path", "/x"],
  ["reserved-argument", "-numa", "node,memdev=m"],
  ["reserved-argument", "-numa", "node,nodeid=0,cpus=0-1"],
  ["reserved-argument", "-compat", "unstable-input=reject"],
  ["reserved-argument", "-compat", "deprecated-input=crash,deprecated-output=hide"],
  ["reserved-argument", "-object", "memory-backend-ram,id=m,size=1M"],
  ["reserved-argument", "-global", "migration.x-colo=on"],
  ["reserved-argument", "-global", "virtio-net-pci.mq=on"],
  ["reserved-argument", "-global", "driver=virtio-net-pci,property=netdev,value=n"],
  ["arguments-file", "-readconfig", "/etc/more.cfg"],
  ["arguments-file", "--readconfig", "-"],
  ["arguments-file", "-writeconfig", "/x"],
  ["arguments-file", "-set", "device.nic0.netdev=n"],
  ["rights-argument", "-runas", "nobody"],
  ["rights-argument", "-chroot", "/x"],
  ["rights-argument", "-run-with", "user=nobody"],
  ["rights-argument", "-run-with", "chroot=/x,exit-with-parent=on"],
  ["rights-argument", "-run-with", "async-teardown=on"],
  ["tpm", "-tpmdev", "emulator,id=t,chardev=c"],
  ["tpm", "-tpmdev", "passthrough,id=t"],
  ["tpm", "-device", "tpm-tis,tpmdev=t"],
  ["stdio", "-monitor", "stdio"],
  ["stdio", "-serial", "stdio"],
  ["stdio", "-serial", "mon:stdio"],
  ["stdio", "-qmp", "stdio"],
  ["stdio", "-chardev", "stdio,id=c"],
  ["unheld-output", "-device", "usb-redir,chardev=c"],
  ["unheld-output", "-object", "can-host-socketcan,id=h,if=can0,canbus=b"],
  ["unheld-output", "-semihosting"],
  ["unknown-argument", "-netde", "user,id=n"],
  ["unknown-argument", "-device=e1000"],
  ["unknown-argument", "-device e1000"],
  ["unknown-argument", "-device", "some-new-device"],
  ["unknown-argument", "-device", ""],
  ["unknown-argument", "-object", "some-new-object,id=o"],
  ["unknown-argument", "-plugin", "/x.so"],
  ["unknown-argument", "-add-fd", "fd=3,set=1"],
  ["unknown-argument", "-icount", "shift=auto"],
  ["unknown-argument", "-"],
  ["unreadable-argument", "-device", "{'driver':'e1000'}"],
] as const)
  test(`${args.join(" ")}: refused, ${expected} (I1)`, () => {
    const [finding, ...more] = found(...args);
    assert.deepEqual(more, []);
    assert.deepEqual([finding?.code, finding?.severity], [expected, "error"]);
    assert.ok(finding!.message.includes(args.at(-1)!), finding!.message);
    // What is wrong, and what to do.
    assert.match(finding!.message, /^vm\.extraArgs: "[^"].* .*\. [A-Z].*\.$/s);
  });

/** Ways out that are the user's to choose, and that he is told of (I1). */
for (const args of [
  ["-chardev", "socket,id=c,path=/s"],
  ["-chardev", "file,id=c,path=/s"],
  ["-chardev", "null,id=c,logfile=/s"],
  ["-chardev", "spicevmc,id=c,name=vdagent"],
  ["-serial", "tcp:10.0.0.9:4444"],
  ["-serial", "telnet::4444,server=on"],
  ["-serial", "udp:10.0.0.9:4444"],
  ["-serial", "file:/var/log/vm"],
  ["-serial", "pty"],
  ["-serial", "/dev/ttyS0"],
  ["-parallel", "pipe:/p"],
  ["-debugcon", "file:/d"],
  ["-monitor", "tcp::4444,server=on"],
  ["-qmp", "unix:/run/more.sock,server=on"],
  ["-mon", "chardev=c,mode=control"],
  ["-spice", "port=5900,disable-ticketing=on"],
  ["-vnc", ":1"],
  ["-vnc", "unix:/run/vnc"],
  ["-audiodev", "wav,id=a,path=/w"],
  ["-audiodev", '{"driver":"pa","id":"a"}'],
  ["-gdb", "tcp::1234"],
  ["-s"],
])
  test(`${args.join(" ")}: allowed, and named as not held (I1)`, () => {
    const [finding, ...more] = found(...args);
    assert.deepEqual(more, []);
    assert.deepEqual([finding?.code, finding?.severity], ["unheld-output", "warning"]);
    assert.ok(finding!.message.includes(args.at(-1)!), finding!.message);
  });

/**
 * A CD as libvirt describes it: the file is opened for writing only if somebody wants to write, and nobody
 * does.
 */
const libvirtDisc = [
  "-blockdev",
  '{"driver":"file","filename":"/a.iso","node-name":"libvirt-1-storage","auto-read-only":true,"discard":"unmap"}',
  ...[
    "-blockdev",
    '{"node-name":"libvirt-1-format","read-only":true,"driver":"raw","file":"libvirt-1-storage"}',
  ],
  ...["-device", "ide-cd,bus=ide.0,unit=0,drive=libvirt-1-format,id=ide0-0-0"],
];

test("a file that could be opened for writing after all is refused, though it says auto-read-only", () => {
  const [, storage] = libvirtDisc;
  for (const more of [
    [],
    libvirtDisc.slice(4),
    ["-blockdev", '{"node-name":"f","driver":"raw","file":"libvirt-1-storage"}'],
    [...libvirtDisc.slice(2), "-device", "virtio-blk-pci,drive=libvirt-1-storage"],
  ])
    assert.equal(extraArgsFindings(["-blockdev", storage!, ...more])[0]?.code, "unprotected-disk", `${more}`);
  const written = storage!.replace("true", 'true,"read-only":false');
  assert.equal(
    extraArgsFindings(["-blockdev", written, ...libvirtDisc.slice(2)])[0]?.code,
    "unprotected-disk",
  );
});

test("behind a machine type stand properties of the guest's hardware, and no others", () => {
  for (const machine of ["pc", "pc-i440fx-7.2", "q35,smm=on,vmport=off", "type=q35,hpet=off"])
    assert.deepEqual(machineFindings(machine), [], machine);
  for (const machine of ["q35,accel=kvm", "q35,memory-backend=m", "smm=on", "q35,,smm=on"])
    assert.equal(machineFindings(machine)[0]?.code, "reserved-argument", machine);
});

test("harmless arguments are let pass", () => {
  for (const args of [
    ["-device", "virtio-rng-pci"],
    ["-drive", "file=vfio-pci,,vhost=on.img,if=virtio,readonly=on"],
    ["-drive", "if=none,id=cd,media=cdrom", "-device", "ide-cd,drive=cd"],
    ["-drive", "file=a.iso,media=cdrom"],
    ["-drive", "if=pflash,format=raw,readonly=on,file=/OVMF_CODE.fd"],
    ["-cdrom", "a.iso"],
    ["-blockdev", '{"driver":"file","node-name":"a","filename":"a","read-only":true}'],
    libvirtDisc,
    ["-rtc", "base=utc", "-vga", "std"],
    ["-net", "none"],
    ["-nic", "none"],
    ["-monitor", "none", "-serial", "none", "-vnc", "none", "-audiodev", "none,id=a"],
    ["-device", "virtio-balloon-pci", "-device", "i6300esb", "-watchdog-action", "poweroff"],
    ["-device", "qemu-xhci", "-device", "usb-tablet", "-device", "usb-kbd"],
    ["-object", "rng-random,id=r,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=r"],
    ["-no-shutdown", "-no-reboot", "-action", "panic=pause"],
    ["-machine", "smm=on,vmport=off"],
    ["-global", "virtio-net-pci.romfile=", "-global", "driver=cfi.pflash01,property=secure,value=on"],
    ["-run-with", "exit-with-parent=on"],
    ["-compat", "deprecated-output=hide,deprecated-input=accept"],
    ["-sandbox", "on,spawn=deny", "-pidfile", "/run/vm.pid", "-D", "/var/log/q", "-d", "guest_errors"],
    // An option's value is what follows, whatever it looks like.
    ["-smbios", "-readconfig"],
    [],
  ])
    assert.deepEqual(extraArgsFindings(args), [], args.join(" "));
});

test("advice can be followed", () => {
  const advice = (...args: string[]) => found(...args)[0]?.message ?? "";
  assert.match(advice("-device", "e1000,netdev=n"), /virtio-net.*no other model/);
  assert.match(advice("-drive", "if=pflash,file=vars.fd"), /vm\.uefi\.variables/);
  assert.match(advice("-pflash", "vars.fd"), /vm\.uefi\.variables/);
  assert.match(advice("-smp", "4,cores=2"), /vm\.topology/);
  assert.match(advice("-drive", "file=a.iso"), /vm\.cdroms/);
  assert.match(advice("-uuid", "x"), /-smbios type=1,uuid=/);
  assert.match(advice("-device e1000"), /two items/);
});

test("one word with option and value in it takes no other word with it", () => {
  const codes = extraArgsFindings(["-device e1000", "-device", "e1000"]).map(({ code }) => code);
  assert.deepEqual(codes, ["unknown-argument", "extra-nic"]);
});

test("an option without its value is not taken for another one's", () => {
  const [finding] = extraArgsFindings(["-device"]);
  assert.equal(finding?.code, "unreadable-argument");
  assert.match(finding?.message ?? "", /lacks its value/);
});

test("a dirty ring is seen in -accel, and only there", () => {
  assert.equal(asksForDirtyRing(["-accel", "kvm,dirty-ring-size=4096"]), true);
  assert.equal(asksForDirtyRing(["-accel", "kvm,dirty-ring-size=0"]), false);
  assert.equal(asksForDirtyRing(["-name", "dirty-ring-size=4096"]), false);
});

test("what has QEMU end with its guest is refused, for the backup would take that for a failure", () => {
  for (const action of ["shutdown=poweroff", "panic=exit-failure", "reboot=shutdown,shutdown=poweroff"]) {
    const [finding] = extraArgsFindings(["-action", action]);
    assert.equal(finding?.code, "reserved-argument", action);
    assert.match(finding!.message, /looks like a failure of this host/);
  }
  for (const action of ["shutdown=pause", "panic=pause", "reboot=shutdown", "watchdog=reset"])
    assert.deepEqual(extraArgsFindings(["-action", action]), []);
});
