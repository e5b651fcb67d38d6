import type { Case } from "./case.ts";

const DEEDS = "test/e2e/guest-deeds.test.ts";

export const cases: readonly Case[] = [
  {
    number: 14,
    input: "a guest powers off under protection, QEMU being one that stays then (-no-shutdown)",
    right: "the VM ends with status 0, and the backup stands by for the next",
    tests: [
      {
        file: "test/e2e/protection.test.ts",
        name: "the backup dies: the VM runs on alone, and says who is missing; a new backup protects it again; then the guest shuts itself down",
      },
    ],
  },
  {
    number: 15,
    input: "protect, then stop at any instant",
    right: "stop wins; nothing is left in QEMU; protect works again",
    tests: [
      {
        file: "test/e2e/stop.test.ts",
        name: "I5: a stop at each command of a protection's start, and at its first checkpoints, undoes it whole",
      },
      {
        file: "test/unit/guardian-stop.test.ts",
        name: "I5: a stop that comes while protect is in its preflight is answered, and the VM is not protected afterwards",
      },
    ],
  },
  {
    number: 16,
    input: "an operator pauses the VM (QMP stop) while it is protected, or as protection begins or ends",
    right: "no checkpoint of a VM that does not run; the pause stays",
    tests: [
      {
        file: DEEDS,
        name: "I5: an operator's pause stays while the VM is protected, when protection ends, and before it begins; cont brings checkpoints back",
      },
    ],
  },
  {
    number: "14b",
    input:
      "power off (with and without -no-shutdown), panic, panic=pause, -no-reboot under protection, also inside a checkpoint's pause",
    right:
      "the VM has ended, once; no checkpoint is asked for again and again; the protection ends with QEMU",
    tests: [
      {
        file: "test/unit/guardian-running-vm.test.ts",
        name: "I5: a guest that ends inside a checkpoint's pause does not run when that pause is over: nobody asks for a checkpoint without end",
      },
    ],
  },
  {
    number: 30,
    input: "a QEMU without out-of-band commands on its monitor, and a drain longer than hungMs",
    right: "never taken to hang; the log says what is not found out",
    tests: [
      {
        file: "test/unit/guardian-hang-qemu.test.ts",
        name: "I5: a QEMU without out-of-band commands whose main loop waits for a disk is not taken to hang; one that is stopped is",
      },
      {
        file: "test/unit/guardian-hang-watch.test.ts",
        name: "I5: a QEMU without out-of-band commands is not asked, hangs only while its process is stopped, and that is said once",
      },
    ],
  },
  {
    number: "30b",
    input: "the watchdog's monitor is lost, then QEMU stands still",
    right: "found to hang all the same",
    tests: [
      {
        file: "test/unit/guardian-hang-qemu.test.ts",
        name: "I4: a QEMU whose monitor for the watchdog is lost, and that is stopped then, is found to hang",
      },
    ],
  },
];
