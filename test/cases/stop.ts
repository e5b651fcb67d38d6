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
];
