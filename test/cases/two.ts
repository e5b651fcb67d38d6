/** Two of one, what is stale, and strangers at the port. */
import type { Case } from "./case.ts";

const START_UP = "test/unit/core-start-up.test.ts";
const ONLY = "test/unit/guardian-only-guardian.test.ts";
const RECORDS = "test/unit/guardian-records.test.ts";
const CALLER = "test/unit/guardian-caller-generation.test.ts";
const SESSION = "test/unit/link-session.test.ts";
const HERE = "test/unit/guardian-start-here.test.ts";

export const cases: readonly Case[] = [
  {
    number: 17,
    input:
      "a guardian is started a second time; two VMs with one UUID, name, directory, disk image, tap, address or socket",
    right: "the second one names the first, ends with status 3, and has touched nothing",
    tests: [
      {
        file: ONLY,
        name: "I3: the same guardian started a second time ends with status 3, names the first, and touches neither socket nor witness",
      },
      {
        file: ONLY,
        name: "I3: what two guardians would destroy for each other is one's alone, by whichever name it is called",
      },
      {
        file: ONLY,
        name: "I3: ends of a VM, and what two files call a path, a file or a device, are one's alone",
      },
      { file: ONLY, name: "what leads out of a VM is none of its own disks, sockets or logs" },
    ],
  },
  {
    number: 18,
    input: "role: primary in both files, both started",
    right: "the first start takes claim 1; the second is refused with the holder's name",
    tests: [
      {
        file: START_UP,
        name: "I3: whatever two hosts noted, and whoever asks first, they never both run the VM, and nobody starts what is not newest",
      },
      {
        file: "test/e2e/two-of-one.test.ts",
        name: "I3: of two hosts that both take themselves for the first one runs the VM; one that has forgotten is refused",
      },
    ],
  },
  {
    number: 19,
    input: "start-here on a host whose disks are older than those of a host that took over",
    right: "told host and age of the newer, and started only with evenOlderDisks",
    tests: [
      {
        file: HERE,
        name: "older disks are started only by somebody who was told whose are newer, and how old that is (I2)",
      },
    ],
  },
  {
    number: 20,
    input: "a host that was installed anew, with its old file",
    right: "the witness knows a claim that the host does not: refused",
    tests: [
      { file: START_UP, name: "a refusal to start says what the images are, and what to do" },
      {
        file: START_UP,
        name: "protocol.md: what a guardian does when it starts is as in core/start-up, for every record, claim and role",
      },
    ],
  },
  {
    number: 21,
    input: "a flush at the backup is under way when it takes over; a note of a role that is over",
    right: "the record is not taken back",
    tests: [
      {
        file: RECORDS,
        name: "I2: a flush that is under way when this host takes over does not call the images a replica any more",
      },
      { file: RECORDS, name: "I2: a record never goes back to an earlier generation, whoever is late" },
    ],
  },
  {
    number: 22,
    input: "durability: replicated, the guest syncs and powers off",
    right: "the images are synced before the backup lets go of its copy, and when any VM ends",
    tests: [
      {
        file: RECORDS,
        name: "I4: with durability replicated, the backup lets go of its copy only once this host's disks have it all",
      },
      { file: RECORDS, name: "when the VM ends, its images are put on stable storage" },
    ],
  },
  {
    number: "22b",
    input: "the guest powers off soon after a takeover, before its disks were settled",
    right: "the disks are noted as the VM's, and it can be started from them",
    tests: [
      {
        file: RECORDS,
        name: "I4: a guest that ends soon after a takeover leaves disks from which it can be started again",
      },
    ],
  },
  {
    number: 23,
    // No host is really suspended: shown are a time namespace whose boot time is a day ahead, and TAKEOVER
    // and an ack in one read. That the processes of a host stand still while its clock goes on is shown by
    // `npm run torture`.
    input: "a host is suspended, or stopped with its clock, and resumed later",
    right: "CLOCK_BOOTTIME decides; a TAKEOVER that was read with acks stands before them",
    tests: [
      {
        file: "test/unit/os-monotonic.test.ts",
        name: "I3: time in which the host was suspended counts: the clock is CLOCK_BOOTTIME",
      },
      {
        file: "test/unit/guardian-primary-link.test.ts",
        name: "I3: an ack that is read together with TAKEOVER releases nothing, however fresh it looks to this host's clock",
      },
    ],
  },
  {
    number: 31,
    input: "a HELLO with the right UUID and machine, and generation 4294967295",
    right: "refused: the witness knows no such generation; nothing is noted before a first pass has begun",
    tests: [
      { file: CALLER, name: "I3: a greater one is one that the witness knows" },
      {
        file: CALLER,
        name: "the last generation leaves none for a failover, and is refused whatever the witness says",
      },
      {
        file: RECORDS,
        name: "a caller whose first pass has not come changes no record, whatever generation it names",
      },
    ],
  },
  {
    number: 32,
    input: "hundreds of connections to the replication port that say nothing",
    right: "the primary gets in, and the log stays short",
    tests: [
      {
        file: SESSION,
        name: "I6: the primary gets in while others connect as fast as they can and say nothing, and the log stays short",
      },
      {
        file: SESSION,
        name: "I6: whoever comes from elsewhere cannot crowd out the other host, and is told nothing",
      },
    ],
  },
  {
    number: 33,
    input: "another UUID, another machine, from somewhere",
    right: "the refusal tells nothing; the log of the host that refuses does",
    tests: [
      {
        file: SESSION,
        name: "a stranger learns nothing: neither the VM's UUID, nor a name, a number or a field; the log here has it all",
      },
    ],
  },
];
