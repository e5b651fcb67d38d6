import type { Case } from "./case.ts";

const SCENARIOS = "test/unit/sim-scenarios.test.ts";

export const cases: readonly Case[] = [
  {
    number: "15a",
    input: "stop 1 to 240 ms after protect, in simulated time",
    right: "who is told that it is stopped is not protected a moment later, and protect works again",
    tests: [1, 4, 15, 30, 60, 90, 120, 160, 240].map((ms) => ({
      file: SCENARIOS,
      name: `stop ${ms} ms after protect`,
    })),
  },
  {
    number: "21a",
    input: "a slow flush is under way at the backup when it takes over, which then loses power",
    right: "it knows that the images are the VM's",
    tests: [{ file: SCENARIOS, name: "a slow flush is under way when the backup takes over" }],
  },
  {
    number: "I7a",
    input: "the write-intent log of a VM that writes much gives way to a new one while protection begins",
    right: "the new log is not taken for one of an earlier protection: what the VM wrote stays on record",
    tests: [
      {
        file: "test/unit/guardian-write-intents.test.ts",
        name: "I7: no log is begun while those of earlier protections are being removed, however fast the first one grows",
      },
    ],
  },
];
