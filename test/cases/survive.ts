import type { Case } from "./case.ts";

const LIFE =
  "A ends by SIGTERM, and the VM moves; B's QEMU is sent SIGTERM as A's address is gone; then nobody is left to give the VM to";
const life = { file: "test/e2e/survivor.test.ts", name: LIFE };
const of = (file: string, ...names: string[]) => names.map((name) => ({ file: `test/unit/${file}`, name }));
const SURVIVOR = "guardian-survivor.test.ts";
const SIGNALS = "guardian-signals.test.ts";
const LOG = "guardian-log.test.ts";

export const cases: readonly Case[] = [
  {
    number: 1,
    input: "the survivor's replication address goes with the host that fails, or is in use",
    right: "the VM runs on; listening is tried again; alarm",
    tests: [
      life,
      ...of(
        "guardian-takeover-notice.test.ts",
        "I5: a survivor whose addresses are taken or gone listens there when it can, with an alarm meanwhile",
      ),
    ],
  },
  {
    number: 3,
    input: "a backup's file without replication.peer; its QEMU stands still for a while after the takeover",
    right:
      "the survivor is a primary in every way, protecting is refused with a sentence, and its QEMU is never killed for a hang",
    tests: [
      ...of(
        "config-file.test.ts",
        "a primary without an address of its own never becomes a backup; a backup without the other host's can run the VM, and has nobody to protect it towards",
      ),
      ...of(
        SURVIVOR,
        "I5: a VM without a peer in its host's file runs on, and protecting it is refused with a sentence",
      ),
    ],
  },
  {
    number: "3b",
    input:
      "the standby's QEMU stands still while the arbiter is asked, or while it takes over from a lost primary",
    right: "it is waited for",
    tests: of(SURVIVOR, "I5: a standby that hangs is ended only while the VM is elsewhere"),
  },
  {
    number: 4,
    input: "kernel or initrd of the VM is gone when the backup takes over",
    right: "the VM runs on; alarm; protection is refused until the file is back",
    tests: of(
      SURVIVOR,
      "I5: a kernel that goes away ends nothing: an alarm stands, protection is refused, and it is over when the file is back",
    ),
  },
  {
    number: 6,
    input: "the log's file system is full",
    right: "lines are dropped and counted, and told of later; nothing waits",
    tests: of(
      LOG,
      "I5: a log on a full file system: lines are dropped and counted, and told of once there is room",
    ),
  },
  {
    number: "6b",
    input: "the log goes to a reader who stands still, or has gone",
    right: "the same",
    tests: of(
      LOG,
      "I5: a log that goes to a reader who does not read: nothing waits, and what is lost is told when it reads again",
      "I5: a log whose reader has gone: nothing is thrown, and no signal ends the process",
    ),
  },
  {
    number: 7,
    input: "signals to the guardian in each role, to the group, to QEMU alone",
    right: "defined, documented, tidy; SIGHUP is not an end",
    tests: [
      life,
      ...of(
        SIGNALS,
        "what is no reason to end is told and changes nothing; SIGTERM ends in order, and a second signal at once",
        "I4: a protected VM is given to the backup, once however often that is asked",
        "I5: a switchover that ends protection leaves the only copy here: its power button is pressed",
        "a guest that does not heed its power button is told to quit after the time limit, and killed after five more seconds",
      ),
    ],
  },
  {
    number: "7b",
    input: "a guardian was killed by SIGKILL",
    right: "the next one removes RAM image, sockets and the clone's files",
    tests: of(
      SURVIVOR,
      "what a killed guardian has left is removed at the next start; what is somebody else's stays",
    ),
  },
  {
    number: 8,
    input: "any error in an effect, at once or later, in any phase",
    right: "one table says what follows; the only copy is never ended for it",
    tests: [
      ...of(
        "core-effect-failures.test.ts",
        "I5: no failure ends the VM of a primary, but where the backup holds an acknowledged checkpoint and an invariant is broken",
      ),
      ...of(
        "guardian-event-loop.test.ts",
        "I5: no effect of a primary that fails at once ends a VM that nobody else has",
        "I5: no effect of a primary that fails later ends a VM that nobody else has",
        "I4: no effect of a backup that fails at once gives up the VM of a lost primary",
        "I4: no effect of a backup that fails later gives up the VM of a lost primary",
      ),
    ],
  },
  {
    number: "8b",
    input: "settling the disks after a takeover fails, or a note of what this host is",
    right: "tried again until it is done; nothing is noted or protected as if it were",
    tests: of(
      SURVIVOR,
      "I2: disks that cannot be flushed after a takeover are tried again; until then nothing notes them as the VM's, and nothing protects them",
      "I5: a note that cannot be written is tried again until it is, and a newer one is never overwritten",
    ),
  },
];
