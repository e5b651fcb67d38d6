/**
 * Planted bugs in which two things are done in the wrong order, or one is not waited for. The window is often
 * a few milliseconds wide. Found in worlds of all kinds, so none has a focus.
 */
import { type Bug, in1 } from "./bug.ts";

export const ORDER_BUGS: Readonly<Record<string, Bug>> = {
  "safe before flushed": {
    why: "after a takeover the disks are noted as the VM's, and put on stable storage then (I2)",
    focus: {},
    patches: [
      in1(
        "guardian/disks/owned-disks.ts",
        "await this.flush(qmp);\n      this.unsettled = false;\n      await this.note(generation, now.wanted());",
        "this.unsettled = false;\n      await this.note(generation, now.wanted());\n      await this.flush(qmp);",
      ),
    ],
  },
  "what is not on the disks yet is noted as the VM's": {
    why: "another note, of a stop for example, says of a taken-over VM's disks what only their flush may say (I2)",
    focus: {},
    patches: [
      in1(
        "guardian/disks/owned-disks.ts",
        'images: this.unsettled ? "syncing" : "owner",',
        'images: "owner",',
      ),
    ],
  },
  "protected before settled": {
    why: "a protection begins while the disks of a takeover are being flushed; the note of that says then that there is no protection (I3)",
    focus: {},
    patches: [in1("guardian/primary/primary.ts", "await this.disks.settled();", "")],
  },
  "notes overtake each other": {
    why: "two notes are written at once, and the older one may stay (I2, I3)",
    focus: {},
    patches: [
      in1("disk/state-file.ts", "const done = this.writing.then(after, after);", "const done = after();"),
      in1("disk/state-file.ts", "async function put(path", "let puts = 0;\nasync function put(path"),
      in1(
        "disk/state-file.ts",
        "const folder = dirname(path);",
        "const folder = dirname(path);\n  const mine = ++puts;",
      ),
      in1("disk/state-file.ts", '.new`, "w", 0o600);', '.new` + mine, "w", 0o600);'),
      in1("disk/state-file.ts", ".new`, path);", ".new` + mine, path);"),
    ],
  },
  "a note that was late is made after a newer one": {
    why: "the note that protection has ended failed, and is tried again although the next one has begun (I3)",
    focus: {},
    patches: [
      in1(
        "guardian/disks/owned-disks.ts",
        "const newest = () => this.notes === note && ",
        "const newest = () => ",
      ),
    ],
  },
  "protected before it is noted": {
    why: "a protection begins while the note that a backup may take over is still being made (I3)",
    focus: {},
    patches: [
      in1(
        "guardian/primary/primary.ts",
        ".note(this.state.generation, this.keep.wanted, this.link.session)\n      .then(() => protection.start())",
        ".note(this.state.generation, this.keep.wanted, this.link.session)\n      .catch(() => {});\n    protection\n      .start()",
      ),
    ],
  },
  "a log goes with the next ack": {
    why: "a write-intent log that gave way is dropped before what it names has been acknowledged (I7)",
    focus: {},
    patches: [
      in1(
        "guardian/disks/write-intents.ts",
        "const done = this.old.filter((one) => one.epoch <= epoch);",
        "const done = this.old.filter(() => epoch >= 0);",
      ),
    ],
  },
  "a log goes when it gives way": {
    why: "a write-intent log is dropped as soon as there is a new one (I7)",
    focus: {},
    patches: [
      in1(
        "guardian/disks/write-intents.ts",
        "this.old.push({ path: before.path, epoch });",
        "this.old.push({ path: before.path, epoch });\n    void rm(before.path, { force: true }).catch(() => {});",
      ),
    ],
  },
  "epoch 1 begins before its output is held": {
    why: "the VM runs on while the thread that holds output is still being told to (I1)",
    focus: {},
    patches: [
      in1("guardian/primary/protection.ts", "await this.chain?.hold(0);\n", "void this.chain?.hold(0);\n"),
    ],
  },
  "output goes before flushes are made good": {
    why: "a VM that has lost its backup is heard of before what it was told is safe has reached a disk (I2)",
    focus: {},
    patches: [
      in1(
        "guardian/primary/protection.ts",
        "this.hardened = this.disks.harden().then(() => this.chain?.releaseAll());",
        "this.chain?.releaseAll();\n    this.hardened = this.disks.harden();",
      ),
    ],
  },
  "checkpoint 0 is acknowledged untried": {
    why: "a backup whose QEMU cannot load the VM says that it could go on (I4)",
    focus: {},
    patches: [
      in1(
        "guardian/backup/held-checkpoints.ts",
        "if (checkpoint.epoch === 0) void this.prove(checkpoint);\n        else this.admit();",
        "if (checkpoint.epoch === 0) this.options.proof.drop();\n        this.admit();",
      ),
    ],
  },
  "goodbye before flushes are made good": {
    why: "a backup is let go whose memory holds what the guest was told is safe (I2)",
    focus: {},
    patches: [
      in1("guardian/primary/protection.ts", "await this.disks.harden();\n    // It may", "// It may"),
    ],
  },
};
