/**
 * More planted bugs, as a hostile reviewer would have them: one line each, and plausible. They are of a
 * host's start, its records and disks, handing over, and stop. Worlds of all kinds show each within 1000
 * runs, so none has a focus.
 */
import { type Bug, in1 } from "./bug.ts";

export const HOST_BUGS: Readonly<Record<string, Bug>> = {
  "a no at the start is no no": {
    why: "a host that is told at its start that the VM was given to the other one starts it all the same (I2, I3)",
    focus: {},
    patches: [
      in1(
        "core/start-up.ts",
        'if (granted) return { as: "primary"',
        'if (granted || generation > 0) return { as: "primary"',
      ),
    ],
  },
  "a copy is started": {
    why: "a host whose images are the other's replica starts the VM from them (I2)",
    focus: {},
    patches: [
      in1(
        "core/start-up.ts",
        'return images !== "owner" || handedOver === true;',
        'return images === "syncing" || handedOver === true;',
      ),
    ],
  },
  "half a copy is started": {
    why: "a host whose images are a copy that was never finished starts the VM from them (I2)",
    focus: {},
    patches: [
      in1(
        "core/start-up.ts",
        'return images !== "owner" || handedOver === true;',
        'return images === "replica" || handedOver === true;',
      ),
    ],
  },
  "an owner of this generation need not ask": {
    why: "a host that was given the VM before its last protection began starts it although its backup may have it (I1, I3)",
    focus: {},
    patches: [
      in1(
        "core/start-up.ts",
        "newest?.host === host && newest.generation > record.generation",
        "newest?.host === host && newest.generation >= record.generation",
      ),
    ],
  },
  "the images of a takeover are called the VM's at once": {
    why: "the record says owner before anything of the images is on stable storage (I2)",
    focus: {},
    patches: [
      in1(
        "guardian/disks/backup-disks.ts",
        'generation,\n        images: "syncing",\n        ...(this',
        'generation,\n        images: "owner",\n        ...(this',
      ),
    ],
  },
  "given away without a sync": {
    why: "the images are not put on stable storage when the VM is given away, and are called exact (I7)",
    focus: {},
    patches: [in1("guardian/disks/owned-disks.ts", "await file.sync();", "")],
  },
  "what was acknowledged is forgotten when the primary is lost": {
    why: "checkpoints that are acknowledged and not committed are dropped with the incomplete one (I1)",
    focus: {},
    patches: [
      in1(
        "guardian/backup/held-checkpoints.ts",
        "this.intake.reset();\n    this.unacknowledged = [];",
        "this.intake.reset();\n    this.committer.forget();\n    this.unacknowledged = [];",
      ),
    ],
  },
  "stop does not end the wish": {
    why: "a VM of which protection was stopped is protected again by itself (stop)",
    focus: {},
    patches: [in1("guardian/primary/orders.ts", "this.guardian.wantNoMore();", "")],
  },
  "one failure of a part ends nothing": {
    why: "an output hold that has failed is not told, and the output stays held (I5)",
    focus: {},
    patches: [
      in1(
        "guardian/primary/primary.ts",
        'onFailed: (reason) => void this.partFailed(protection, "output-failed", reason),',
        "onFailed: () => {},",
      ),
    ],
  },
  "a backup that is unable keeps what it has": {
    why: "half a state is left, and the next session's begins on it (I2)",
    focus: {},
    patches: [
      in1("core/backup.ts", '      { type: "forget" },\n      error(`this host', "      error(`this host"),
    ],
  },
};
