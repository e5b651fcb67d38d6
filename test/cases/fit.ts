import type { Case } from "./case.ts";

const fit = "test/e2e/machine-fit.test.ts";

export const cases: readonly Case[] = [
  {
    number: 10,
    input: "a card is plugged into the running VM through another monitor, then protect",
    right: "refused by the device's name; the VM runs on",
    tests: [
      {
        file: fit,
        name: "a running machine fits its standby, and a card that another monitor plugs in is named",
      },
    ],
  },
  {
    number: "10b",
    input: "memory is plugged in, or a CD is changed, through another monitor, then protect",
    right: "refused by name",
    tests: [{ file: fit, name: "memory that is plugged in, and a medium that is changed, are named" }],
  },
  {
    number: "10c",
    input: "the guest's CPU can do less at the backup (vm.cpu: host on another processor)",
    right: "refused with the names of the features",
    tests: [
      { file: fit, name: "what the guest's CPU lacks at the backup is named, however the model is written" },
    ],
  },
  {
    number: 12,
    input: "machine types pc-i440fx-3.1, pc-q35-3.1, pc-i440fx-2.12",
    right: "guest RAM has the same name on both hosts",
    tests: [
      { file: fit, name: "machine types from before 4.0 call their RAM as the others do" },
      {
        file: "test/e2e/failover.test.ts",
        name: "the oldest machine types that this QEMU has, from 2.12 on (I4, I7)",
      },
      {
        file: "test/unit/qemu-command-line.test.ts",
        name: "guest RAM is called the same in the stream, whether it is a file or not, with machine types of any age",
      },
    ],
  },
  {
    number: 13,
    input: "the backup's boot ROM of a card has another size",
    right: "refused, naming the ROM's file and its package",
    tests: [{ file: fit, name: "a boot ROM of another size or with other contents is named" }],
  },
  {
    number: "10g",
    input: "the balloon is blown up and let down through another monitor while the VM is protected",
    right: "followed: RAM is equal before and after, and a failover goes on",
    tests: [
      {
        file: "test/e2e/guest-devices.test.ts",
        name: "UEFI, topology, discs, ports, screen, balloon, watchdog, tablet: what the guest wrote into its flash memory survives, too (I1, I4, I7)",
      },
    ],
  },
  {
    number: 47,
    input: "a QEMU without replication",
    right: "found out at preflight",
    tests: [
      {
        file: "test/unit/qemu-colo-support.test.ts",
        name: "from 8.1 on the command x-colo-lost-heartbeat goes with the module: nothing is tried",
      },
      {
        file: "test/unit/qemu-colo-support.test.ts",
        name: "before 8.1 the capability is tried, and taken back",
      },
      { file: fit, name: "Debian's QEMU has COLO, and asking leaves nothing behind" },
    ],
  },
  {
    number: "47b",
    input: "QEMU 10.0.6, 10.1.2",
    right: "refused by name, with the version and the package to upgrade to",
    tests: [
      {
        file: "test/unit/qemu-traps.test.ts",
        name: "a version with broken COLO is refused with the version and the package to upgrade to",
      },
    ],
  },
  {
    number: "10d",
    input: "a device is plugged in after the handshake, while the first pass begins",
    right:
      "checkpoint 0 does not load on trial: refused with QEMU's words, the VM runs on, nobody asks the arbiter",
    tests: [
      {
        file: "test/e2e/checkpoint-proof.test.ts",
        name: "a device that is plugged in after the handshake is found by loading checkpoint 0, and one beside the protection never gets in (I5)",
      },
      {
        file: "test/unit/guardian-held-checkpoints.test.ts",
        name: "checkpoint 0 is not called whole before it was loaded on trial, nor is any behind it; one that does not load is told, once",
      },
      {
        file: "test/unit/core-primary.test.ts",
        name: "I5: a backup that is unable to go on has let go of the VM: nobody is asked, and output is free",
      },
    ],
  },
  {
    number: "10e",
    input: "a disc is changed, or a network backend is added, by another monitor while the VM is protected",
    right: "protection ends with its name, the VM runs on, and the next try is refused for the same",
    tests: [
      {
        file: "test/e2e/checkpoint-proof.test.ts",
        name: "a device that is plugged in after the handshake is found by loading checkpoint 0, and one beside the protection never gets in (I5)",
      },
    ],
  },
  {
    number: "10f",
    input: "a card is ejected, a disk resized, a device taken out, while the VM is protected",
    right: "protection ends with its name, where QEMU itself does not refuse it",
    tests: [
      {
        file: "test/e2e/checkpoint-proof.test.ts",
        name: "a device that is plugged in after the handshake is found by loading checkpoint 0, and one beside the protection never gets in (I5)",
      },
      {
        file: "test/unit/guardian-change-watch.test.ts",
        name: "a device that is unplugged while the VM is protected is named, once (I5)",
      },
      {
        file: "test/unit/guardian-change-watch.test.ts",
        name: "a disk that is resized while the VM is protected is named, once (I5)",
      },
    ],
  },
];
