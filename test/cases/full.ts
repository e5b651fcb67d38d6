import type { Case } from "./case.ts";

const CONTROL = "test/unit/control-socket.test.ts";
const SAMPLES = "test/unit/guardian-samples.test.ts";

const DISK_ERRORS = "test/unit/guardian-disk-errors.test.ts";
const WITNESS = "test/unit/witness-full.test.ts";
const TAPS = "test/unit/net-standby-taps.test.ts";

export const cases: readonly Case[] = [
  {
    number: 2,
    input: "the backup's tap is set down after protection began, or in the failover; renamed; taken away",
    right: "the VM runs; the tap is an alarm, and set up if Remus may",
    tests: [
      {
        file: "test/e2e/taps.test.ts",
        name: "a tap that is set down on the backup is an alarm; the VM that is taken over has it up again, and its clients go on (I4)",
      },
      { file: TAPS, name: "I4: a tap that is down is set up when the primary is silent" },
      {
        file: TAPS,
        name: "I4: a tap that is set down, taken away or renamed in a failover is told of, and keeps nothing from going on",
      },
    ],
  },
  {
    number: 24,
    input: "the primary's image on a full file system, guest writes; room returns",
    right: "alarm with disk, reason and free bytes; goes on by itself",
    tests: [
      {
        file: DISK_ERRORS,
        name: "I5: a VM whose image has no room is an alarm with disk, reason and free bytes; it goes on when there is room",
      },
      {
        file: DISK_ERRORS,
        name: "an error that only the guest is told of reaches the operator by name, once a minute",
      },
      {
        file: "test/e2e/disk-full.test.ts",
        name: "the primary's image has no room, unprotected and protected, then the backup's: alarms, and all go on by themselves (I5)",
      },
      {
        file: DISK_ERRORS,
        name: "I5: a VM that had no room before anybody listened, as one that was just taken over, is found and goes on",
      },
      {
        file: "test/unit/guardian-resume.test.ts",
        name: "`resume` lets a VM run on that its operator, its disk, its watchdog or a debugger has stopped",
      },
    ],
  },
  {
    number: "24b",
    input: "the file system of the state directory is full",
    right: "the file, the reason and the remedy are named; whole when there is room again",
    tests: [
      {
        file: "test/unit/disk-state-file.test.ts",
        name: "I2: a state file that finds no room names itself, the reason and the remedy, and is whole when there is room again",
      },
    ],
  },
  {
    number: "24c",
    input: "a guardian has no file descriptors left (EMFILE): replication port, control socket, threads",
    right:
      "an alarm with the remedy; nobody hangs, the process lives on, and callers get in when there are some",
    tests: [
      {
        file: "test/unit/guardian-descriptors.test.ts",
        name: "I5: without file descriptors a guardian's doors live on: an alarm with the remedy, and callers get in when there are some",
      },
    ],
  },
  {
    number: 25,
    input:
      "etcd with the alarm NOSPACE; Remus's own witness on a full disk; shared storage full or read-only",
    right: "not reachable, and an alarm with the reason; back when there is room; nothing forgotten",
    tests: [
      {
        file: WITNESS,
        name: "I4: an etcd that answers reads and refuses writes (NOSPACE) is no witness until the alarm is disarmed; looking stores nothing",
      },
      {
        file: WITNESS,
        name: "I4: Remus's witness on a full disk lives on, is no witness meanwhile, and loses nothing",
      },
      {
        file: WITNESS,
        name: "I4: shared storage that is full or read-only is no witness until it can be written again",
      },
    ],
  },
  {
    number: 27,
    input:
      "`status` after an hour of protection; 60 `samples` orders in one packet; clients that do not read",
    right: "constant cost; orders, answers, clients and lines are bounded",
    tests: [
      { file: SAMPLES, name: "I6: what a status and a slice cost does not grow with what was measured" },
      {
        file: CONTROL,
        name: "I6: orders that come at once are taken one a turn, and more than 32 that wait are refused by their id",
      },
      {
        file: CONTROL,
        name: "I6: a caller that gives orders and reads no answers is not answered further, and at last dropped",
      },
      {
        file: CONTROL,
        name: "I6: callers that wait for nothing make room for others; where all wait for something, one is turned away",
      },
    ],
  },
  {
    number: 35,
    input: "a tap that was made for the user or a group of theirs, guardian as that user",
    right: "works; what needs CAP_NET_ADMIN is named",
    tests: [
      {
        file: "test/unit/qemu-tap-rights.test.ts",
        name: "preflight lets a user have exactly the taps that the kernel lets them open",
      },
    ],
  },
  {
    number: 37,
    input: "the standby's bridge runs a spanning tree; its port has settings of its own",
    right: "the port stays where it is, forwarding, with all settings; frames come at once",
    tests: [
      {
        file: TAPS,
        name: "a standby's tap keeps its place in the bridge with all settings, also where a spanning tree runs",
      },
    ],
  },
  {
    number: 38,
    input: "orders through `echo … | nc -q 30 -U control.sock`, which closes its half",
    right: "answered; a caller that has gone entirely ends its hold",
    tests: [
      {
        file: CONTROL,
        name: "I5: a caller that has closed its half gets the answers it waits for, and then the end",
      },
      { file: CONTROL, name: "I5: a hold ends with its caller, though it had closed its half before" },
      {
        file: CONTROL,
        name: "a watcher that has closed its half goes on being told, until it has gone",
      },
    ],
  },
];
