import type { Case } from "./case.ts";

const EXTRA = "test/unit/qemu-extra-args.test.ts";
const LIVE = "test/e2e/preflight.test.ts";
const PROCESS = "test/unit/qemu-process.test.ts";
const IMAGE = "test/unit/qemu-disk-image.test.ts";

export const cases: readonly Case[] = [
  {
    number: 11,
    input: "-readconfig with a backend and an e1000",
    right: "refused; and found in the running QEMU, whatever the arguments said",
    tests: [
      { file: EXTRA, name: "-readconfig /etc/more.cfg: refused, arguments-file (I1)" },
      {
        file: LIVE,
        name: "live: a card that came by a file of arguments is found, and so is one that is plugged in later (I1)",
      },
    ],
  },
  {
    number: "11b",
    input: "-set, -global, two drivers in one -device, JSON in single quotes, a driver that nobody knows",
    right: "refused",
    tests: [
      { file: EXTRA, name: "-set device.nic0.netdev=n: refused, arguments-file (I1)" },
      { file: EXTRA, name: "-device virtio-rng-pci,driver=e1000: refused, extra-nic (I1)" },
      { file: EXTRA, name: "-device {'driver':'e1000'}: refused, unreadable-argument (I1)" },
      { file: EXTRA, name: "-device some-new-device: refused, unknown-argument (I1)" },
      { file: LIVE, name: "live: a port that was led out over another monitor is told of (I1)" },
    ],
  },
  {
    number: 26,
    input: "a raw disk whose first sector the guest has written like the header of another format",
    right: "it starts, at every start; nobody advises another format",
    tests: [
      {
        file: IMAGE,
        name: "a raw disk whose guest has written what looks like qcow2 with a backing file is taken as raw, again and again",
      },
      {
        file: IMAGE,
        name: "nobody is advised to open an image in a format that its guest could have written",
      },
    ],
  },
  {
    number: 36,
    input: "-runas, -chroot, -run-with user=",
    right: "refused",
    tests: [
      { file: EXTRA, name: "-runas nobody: refused, rights-argument (I1)" },
      { file: EXTRA, name: "-run-with user=nobody: refused, rights-argument (I1)" },
    ],
  },
  {
    number: 39,
    input:
      "a CPU model, device, disk or machine that QEMU does not know; a QEMU that is killed; a state that is refused",
    right: "QEMU's last words are in the message, and its log has them",
    tests: [
      {
        file: PROCESS,
        name: "a CPU model that it does not know: the start fails with QEMU's own words, and names its log",
      },
      {
        file: PROCESS,
        name: "commands that were under way when QEMU ended fail with how it ended, not with the socket's error",
      },
      { file: PROCESS, name: "a standby that refuses the state says why" },
    ],
  },
  {
    number: 40,
    input: "an empty tray, pflash, -smp, an e1000, -net none",
    right: "what can be done is said",
    tests: [
      { file: EXTRA, name: "advice can be followed" },
      { file: EXTRA, name: "harmless arguments are let pass" },
    ],
  },
  {
    number: 41,
    input: "-spice, -serial tcp, -monitor, usb-redir, -tpmdev",
    right: "named as unheld, or refused",
    tests: [
      { file: EXTRA, name: "-spice port=5900,disable-ticketing=on: allowed, and named as not held (I1)" },
      { file: EXTRA, name: "-serial tcp:10.0.0.9:4444: allowed, and named as not held (I1)" },
      { file: EXTRA, name: "-monitor stdio: refused, stdio (I1)" },
      { file: EXTRA, name: "-device usb-redir,chardev=c: refused, unheld-output (I1)" },
      { file: EXTRA, name: "-tpmdev emulator,id=t,chardev=c: refused, tpm (I1)" },
    ],
  },
  {
    number: "40b",
    input:
      "UEFI with its variable store, topology, discs, an empty tray, serial port, agent, screen, balloon, watchdog, tablet, in one VM",
    right: "protected and failed over; what the guest wrote into its flash memory is there",
    tests: [
      {
        file: "test/e2e/guest-devices.test.ts",
        name: "UEFI, topology, discs, ports, screen, balloon, watchdog, tablet: what the guest wrote into its flash memory survives, too (I1, I4, I7)",
      },
      {
        file: "test/unit/qemu-peripherals.test.ts",
        name: "I4: a standby's flash memory is what the store's file holds, not what the first checkpoint had",
      },
    ],
  },
];
