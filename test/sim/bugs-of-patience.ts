/**
 * Planted bugs in which something is given up that must be tried again. Found in worlds of all kinds, so none
 * has a focus.
 */
import { type Bug, in1 } from "./bug.ts";

export const PATIENCE_BUGS: Readonly<Record<string, Bug>> = {
  "a primary that could not ask does not ask again": {
    why: "the question to the arbiter fails once, and the VM's output stays held for ever (I4)",
    focus: {},
    patches: [
      in1(
        "core/effect-failures.ts",
        '"ask-arbiter": "again",\n  "kill-vm"',
        '"ask-arbiter": "tell",\n  "kill-vm"',
      ),
    ],
  },
  "a backup that could not ask does not ask again": {
    why: "the question to the arbiter fails once, and the only host that could go on waits for ever (I4)",
    focus: {},
    patches: [
      in1(
        "core/effect-failures.ts",
        '"ask-arbiter": "again",\n  takeover',
        '"ask-arbiter": "tell",\n  takeover',
      ),
    ],
  },
  "a takeover that fails once is given up": {
    why: "a standby that could not be run at first is not tried again, and nobody else has the VM (I4)",
    focus: {},
    patches: [in1("core/effect-failures.ts", '"run-standby": "again",', '"run-standby": "tell",')],
  },
  "an ack that could not be sent is passed over": {
    why: "the next one then looks like a broken order, and the primary's VM is killed (I5)",
    focus: {},
    patches: [in1("core/effect-failures.ts", 'ack: "primary-lost",', 'ack: "tell",')],
  },
  "a VM that could not be killed is left": {
    why: "a host that has lost the VM goes on to run it, paused or not, and is no backup of the new owner (liveness)",
    focus: {},
    patches: [in1("core/effect-failures.ts", '"kill-vm": "again",', '"kill-vm": "tell",')],
  },
  "an end that failed is left": {
    why: "what could not be taken out of QEMU stays in, and the VM is never protected again (liveness)",
    focus: {},
    patches: [in1("core/effect-failures.ts", '"end-capture": "again",', '"end-capture": "tell",')],
  },
  "a TAKEOVER that could not be said is passed over": {
    why: "in a switchover the old primary waits, paused, for a word that does not come (I5)",
    focus: {},
    patches: [in1("core/effect-failures.ts", 'takeover: "primary-lost",', 'takeover: "tell",')],
  },
};
