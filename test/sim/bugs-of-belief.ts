/**
 * Planted bugs in which a guardian believes what it must not: a stranger, a file, or that nothing has
 * changed. Found in worlds of all kinds, so none has a focus.
 */
import { type Bug, in1 } from "./bug.ts";

export const BELIEF_BUGS: Readonly<Record<string, Bug>> = {
  "a stranger's generation is believed": {
    why: "a HELLO with a great generation makes the real primary an old one for ever (liveness)",
    focus: {},
    patches: [
      in1(
        "guardian/backup/link.ts",
        "const wrong = await refuseGeneration(caller.generation, state().generation, context);",
        "const wrong = caller.generation < state().generation ? await refuseGeneration(caller.generation, state().generation, context) : undefined;",
      ),
    ],
  },
  "a host that was installed anew believes its file": {
    why: "a host without a record starts the VM from blank disks, although it was given to the other one (I2, I3)",
    focus: {},
    patches: [
      in1(
        "core/start-up.ts",
        'if (had !== undefined || role === "backup") return backup(given);',
        'if (had !== undefined || role === "backup") return backup(given);\n    return primary("its file says so");',
      ),
      in1(
        "core/start-up.ts",
        "if (newest === undefined) return primary(",
        'if (newest === undefined || role === "primary") return primary(',
      ),
    ],
  },
  "what is plugged in later goes unseen": {
    why: "a VM has a device that no standby has, and counts as protected (I4)",
    focus: {},
    patches: [in1("guardian/primary/watched-vm.ts", 'feed({ type: "stop-asked", because });', "")],
  },
  "bytes on their way are not counted": {
    why: "checkpoints are begun however much of earlier ones the backup has not acknowledged (I6)",
    focus: {},
    patches: [in1("core/pacer.ts", "if (bytes >= settings.maxInFlightBytes)", "if (bytes < 0)")],
  },
};
