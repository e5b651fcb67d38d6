import type { Case } from "./case.ts";

export const cases: readonly Case[] = [
  {
    number: 9,
    input: "a VM with more than 4 GiB of RAM",
    right: "RAM equal at every check, and a failover",
    tests: [
      {
        file: "test/unit/memory-backup-images.test.ts",
        name: "I7: pages land where they belong: RAM in the file, everything else beside it, untouched pages zero",
      },
    ],
  },
];
