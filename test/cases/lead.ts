import type { Case } from "./case.ts";

const IMAGES = "test/unit/memory-backup-images.test.ts";
const RAM_FILE = "test/unit/memory-ram-file.test.ts";

export const cases: readonly Case[] = [
  {
    number: 5,
    input:
      "the file system that holds the RAM image fills up, then the guest touches memory that it had not used",
    right: "the room is reserved when the image is made, or the backup is refused with the number of bytes",
    tests: [
      {
        file: RAM_FILE,
        name: "all space of a RAM file is reserved: nothing that fills the file system later can make a touch of it fail",
      },
      {
        file: RAM_FILE,
        name: "without room there is no file, and the message has the number of bytes, the place and what to do",
      },
    ],
  },
  {
    number: 9,
    input: "a VM with more than 4 GiB of RAM",
    right: "RAM equal at every check, and a failover with its memory right",
    tests: [
      {
        file: IMAGES,
        name: "I7: pages above 4 GiB land where they belong, in an image of 64 GiB; so do their copies",
      },
      {
        file: "test/long/large-memory.test.ts",
        name: "I7, I4: 6 GiB of RAM, high memory full: equal at each check, and right after a failover, with the image's file system full",
      },
    ],
  },
  {
    number: 29,
    input: "checkpoints that are not in the backup's images yet, each as large as the VM's RAM and more",
    right: "bounded and reckoned with",
    tests: [
      {
        file: "test/unit/guardian-held-checkpoints.test.ts",
        name: "I6: checkpoints that are not in the images never take more than is reckoned with; one too many is refused, and forgotten when they are",
      },
      {
        file: "test/unit/core-pacer.test.ts",
        name: "I6: with maxInFlightBytes not acknowledged no checkpoint is begun, however few they are; an ack makes room",
      },
    ],
  },
  {
    number: 34,
    input: "the image's directory was made by another local user; a file is swapped for a link",
    right: "refused with owner and mode; the descriptor that was made is the one that is mapped",
    tests: [
      { file: RAM_FILE, name: "a directory that somebody else made, or may change, gets no RAM file" },
      {
        file: RAM_FILE,
        name: "a link of somebody else's on the way is refused, and one of ours is followed to where it leads",
      },
    ],
  },
];
