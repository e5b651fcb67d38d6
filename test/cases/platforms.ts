import type { Case } from "./case.ts";

export const cases: readonly Case[] = [
  {
    number: 42,
    input: "the README's commands, on a machine with Node 20 and no nc, after npm start",
    right: "they work as they stand",
    tests: [
      {
        file: "test/unit/guardian-order.test.ts",
        name: "an order's answer is printed, and a refusal is told in the guardian's words, with status 1",
      },
    ],
  },
  {
    number: 43,
    input: "npm 9 has removed node_modules/.bin/node together with the package for another processor",
    right: "set-up makes the link again, and gives the true reason when our Node is missing or does not run",
    tests: [
      {
        file: "test/unit/setup-own-node.test.ts",
        name: "a link that npm has taken away is made again, and nothing is installed for it",
      },
      {
        file: "test/unit/setup-own-node.test.ts",
        name: "a Node that npm has not brought is missing, and one that does not run says why",
      },
    ],
  },
  {
    number: 44,
    input: "the guests' kernel has its modules as .ko.xz, .ko.zst or .ko.gz",
    right: "they are unpacked",
    tests: [
      {
        file: "test/unit/lab-unpack-module.test.ts",
        name: "a module is the same however it is packed: plain, gzip, zstd, xz",
      },
    ],
  },
  {
    number: "44b",
    input: "the kernel has virtio built in, as Debian 13's",
    right:
      "what is built in is left out; the rest is loaded in the order in which the modules need each other",
    tests: [
      {
        file: "test/unit/lab-kernel-modules.test.ts",
        name: "what is built in is left out, and what is packed unpacked, from usr/lib/ as Debian 13 has it",
      },
      {
        file: "test/unit/lab-kernel-modules.test.ts",
        name: "each module comes behind those that it needs, once, from lib/ as Debian 12 has it",
      },
    ],
  },
  {
    number: 45,
    input: "npm test with Debian 13's e2fsprogs, libnbd, SeaBIOS",
    right: "all pass, each for its own reason",
    tests: [
      {
        file: "test/unit/lab-file-system.test.ts",
        name: "a file that was open when it was deleted is freed at the next mount, and is no damage",
      },
      {
        file: "test/e2e/nbd-tools.test.ts",
        name: "nbdinfo is told what the export is, and where it holds data",
      },
      { file: "test/e2e/disk-command-line.test.ts", name: "firmware boots from legacy virtio-blk" },
    ],
  },
  {
    number: "45c",
    input:
      "a root by su, or an ordinary user, whose PATH has no sbin: debugfs, mkfs.ext4, losetup are not found",
    right: "the lab and the tests find them",
    tests: [
      {
        file: "test/unit/lab-search-path.test.ts",
        name: "what an ordinary PATH lacks is added behind it, once; what is first stays first",
      },
    ],
  },
  {
    number: "45b",
    input: "an epoch's last piece of disk data comes just below the limit of what one epoch may write",
    right: "the limit holds to the byte (I6)",
    tests: [
      {
        file: "test/unit/disk-endpoint.test.ts",
        name: "I6: an epoch writes no more than the ring holds, however quickly that is shipped; the next may again",
      },
    ],
  },
  {
    number: 46,
    input: "a QEMU that does COLO over a return path only",
    right: "both capabilities on, SHUT before READY; both off afterwards",
    tests: [
      {
        file: "test/unit/qemu-colo-capability.test.ts",
        name: "a QEMU that wants a return path for COLO gets one, and has neither afterwards (I5)",
      },
      {
        file: "test/unit/migration-stream.test.ts",
        name: "a return path that QEMU opens is noticed, by the command and not by the version; other commands are not taken for it",
      },
    ],
  },
  {
    number: 49,
    input: "each QEMU, with and without the library against the COLO deadlock",
    right: "loaded up to 10.2, not from 11.0 on",
    tests: [
      {
        file: "test/e2e/tcg-aids.test.ts",
        name: "without the library QEMU up to 10.2 deadlocks, so the tests above can fail; from 11.0 on it needs none",
      },
      {
        file: "test/unit/qemu-traps.test.ts",
        name: "software emulation without the library deadlocks and is refused, up to 10.2; from 11.0 on it needs none",
      },
    ],
  },
];
