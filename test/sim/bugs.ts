/**
 * Planted bugs: a rule of the protocol is broken in one place of the production code, as it is loaded, and
 * the simulator must find it. Each says what is wrong with it.
 */
import { type Bug, in1 } from "./bug.ts";
import { BELIEF_BUGS } from "./bugs-of-belief.ts";
import { HOST_BUGS } from "./bugs-of-hosts.ts";
import { ORDER_BUGS } from "./bugs-of-order.ts";
import { PATIENCE_BUGS } from "./bugs-of-patience.ts";

const LOST = ["host loses power", "link is cut", "guardian is killed"];

/** Worlds of all kinds show these; they take more runs. */
export const WIDE_BUGS: Readonly<Record<string, Bug>> = {
  ...HOST_BUGS,
  ...ORDER_BUGS,
  ...PATIENCE_BUGS,
  ...BELIEF_BUGS,
};

export const BUGS: Readonly<Record<string, Bug>> = {
  "release before ack": {
    why: "output of an epoch leaves when its checkpoint is captured (I1)",
    focus: { style: "few", faults: LOST },
    patches: [
      in1(
        "core/primary-epochs.ts",
        "return { state: then.state, effects: [...proceed, ...then.effects] };",
        'return { state: then.state, effects: [...proceed, { type: "release", upTo: epoch }, ...then.effects] };',
      ),
      in1("guardian/primary/primary.ts", "this.assertAcked(effect.upTo);", ""),
    ],
  },
  "release of all without a verdict": {
    why: "a lost backup is taken for a dead one: everything goes out while the arbiter is asked (I1, I3)",
    focus: { style: "few", faults: ["link is cut", "connection is reset at both ends"] },
    patches: [
      in1(
        "core/primary-epochs.ts",
        '{ type: "close-link" },\n          { type: "ask-arbiter", generation: state.generation },',
        '{ type: "release-all" },\n{ type: "close-link" },\n          { type: "ask-arbiter", generation: state.generation },',
      ),
    ],
  },
  "commit of a checkpoint that lacks a write": {
    why: "the end of a checkpoint is sent although the mirror has lost a write of its epoch (I2)",
    focus: { style: "few", faults: ["mirror fails"] },
    patches: [
      in1(
        "guardian/primary/protection.ts",
        "if (!this.disks.broken) this.shipping.end(report.epoch, report.device);",
        "this.shipping.end(report.epoch, report.device);",
      ),
    ],
  },
  "commit before all of it is written": {
    why: "a checkpoint is called committed while its disk writes are under way (I2)",
    focus: {},
    patches: [
      in1(
        "guardian/backup/committer.ts",
        "void disks.apply(checkpoint.disk).then((applied) => {",
        "void disks.apply(checkpoint.disk);\nvoid Promise.resolve(true).then((applied) => {",
      ),
    ],
  },
  "commit of a partial checkpoint": {
    why: "what a broken link has left of a checkpoint is put into the images before the standby runs (I2)",
    focus: { style: "one", faults: ["host loses power", "connection is reset at one end"] },
    patches: [
      in1(
        "guardian/backup/held-checkpoints.ts",
        "this.intake.reset();\n    this.unacknowledged = [];",
        "this.intake.putRest();\n    this.intake.reset();\n    this.unacknowledged = [];",
      ),
      in1(
        "guardian/backup/checkpoint-intake.ts",
        "  reset(): void {",
        "  putRest(): void {\n    this.buffers.get(this.next)?.each((pages) => this.options.images.write(pages));\n  }\n\n  reset(): void {",
      ),
      in1(
        "memory/checkpoint-buffer.ts",
        "  private grow(",
        "  each(write: (pages: PageList) => void): void {\n    for (const one of this.pages) write(one);\n  }\n\n  private grow(",
      ),
    ],
  },
  "ack before whole": {
    why: "a checkpoint is acknowledged when its first pages have come (I1)",
    focus: { style: "one", faults: ["host loses power", "link is cut"] },
    patches: [
      in1(
        "guardian/backup/backup.ts",
        "this.link.send((ids) => encodeAck(ids, effect.epoch));",
        "if (effect.epoch > this.link.early) this.link.send((ids) => encodeAck(ids, effect.epoch));",
      ),
      in1(
        "guardian/backup/link.ts",
        "      default:\n        this.takeIn(message);",
        '      default:\n        if (message.type === "pages" && message.epoch > this.early) this.send((ids) => encodeAck(ids, (this.early = message.epoch)));\n        this.takeIn(message);',
      ),
      in1(
        "guardian/backup/link.ts",
        "  private greeting = false;",
        "  private greeting = false;\n  early = -1;",
      ),
      in1("guardian/backup/link.ts", "    intake.reset();\n", "    intake.reset();\n    this.early = -1;\n"),
      in1(
        "guardian/backup/link.ts",
        "import { encodeHandoverRefused,",
        "import { encodeAck, encodeHandoverRefused,",
      ),
    ],
  },
  "solo without the witness, primary": {
    why: "a primary that has lost its backup goes on alone and asks nobody (I3)",
    focus: { style: "few", faults: ["link is cut"] },
    patches: [
      in1(
        "guardian/primary/primary.ts",
        'this.feed({ type: "verdict", ...(await this.context.witness.ask(generation)) });',
        'this.feed({ type: "verdict", granted: true, generation: generation + 1 });',
      ),
    ],
  },
  "solo without the witness, backup": {
    why: "a backup that has lost its primary takes the VM and asks nobody (I3)",
    focus: { style: "few", faults: ["link is cut"] },
    patches: [
      in1(
        "guardian/backup/backup.ts",
        "const verdict = await this.context.witness.ask(generation);",
        "const verdict = { granted: true, generation: generation + 1 };",
      ),
    ],
  },
  "denied is not obeyed": {
    why: "a primary to which the arbiter says no goes on all the same (I3)",
    focus: { style: "few", faults: ["link is cut"] },
    patches: [in1("core/primary.ts", "if (!event.granted)", "if (!event.granted && false)")],
  },
  "a lost answer is a no": {
    why: "a claim whose answer is lost is taken for denied: the host that was given the VM stands down (I4)",
    focus: { style: "one", faults: LOST },
    patches: [
      in1(
        "witness/witness.ts",
        "that it took`);\n    }, signal);",
        'that it took`);\n    }, signal, { generation: generation + 1, host: "nobody" });',
      ),
      in1(
        "witness/witness.ts",
        "private async insist<T>(attempt: (until: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {",
        "private async insist<T>(attempt: (until: AbortSignal) => Promise<T>, signal?: AbortSignal, otherwise?: T): Promise<T> {",
      ),
      in1(
        "witness/witness.ts",
        "this.unanswered(error as Error);",
        "this.unanswered(error as Error);\n        if (otherwise !== undefined) return otherwise;",
      ),
    ],
  },
  "an older owner's takeover is obeyed": {
    why: "a host that lost the VM and does not know it stops the new owner (I4)",
    focus: { style: "one", faults: ["guardian stands still", "host stands still"] },
    patches: [
      in1("core/primary.ts", "if (event.generation >= state.generation)", "if (event.generation > 0)"),
      in1(
        "guardian/primary/takeover-notice.ts",
        'if (caller.generation < generation || (caller.generation === generation && phase !== "superseded"))',
        "if (generation > 0 || phase)",
      ),
    ],
  },
  "the standby runs before the last acknowledged checkpoint is committed": {
    why: "the VM goes on from a state that does not know what was released (I1, I2)",
    focus: { style: "one", faults: ["host loses power", "QEMU crashes"] },
    patches: [
      in1("core/backup-takeover.ts", "if (state.committed < state.acked)", "if (false as boolean)"),
      in1(
        "guardian/backup/standby-takeover.ts",
        'if (!("committed" in state) || state.committed !== epoch)',
        'if (!("committed" in state))',
      ),
    ],
  },
  "a standby runs as soon as it has the state": {
    why: "in a switchover the VM runs before the arbiter has said so, and the old host may keep it (I3)",
    focus: {
      style: "few",
      orders: ["switchover"],
      faults: ["witness is out of reach for one", "host loses power"],
    },
    patches: [
      in1(
        "guardian/backup/standby-takeover.ts",
        "await loadStandby(qemu.qmp, held.composition(), this.grace);",
        "await loadStandby(qemu.qmp, held.composition(), this.grace);\nawait runStandby(qemu.qmp, this.grace);",
      ),
    ],
  },
  "late acks release": {
    why: "what a host that was not there for a while finds in its socket lets output go (I3)",
    focus: { style: "one", faults: ["guardian stands still"] },
    patches: [
      in1(
        "guardian/primary/link.ts",
        "if (this.staleAcks.heardLate(monotonicMs(), by))",
        "if (false as boolean)",
      ),
    ],
  },
  "disarmed without goodbye-ok": {
    why: "protection ends when GOODBYE is sent, and not when the backup has stood down (I1)",
    focus: { style: "few", faults: LOST, orders: ["stop", "protect"] },
    patches: [
      in1(
        "core/primary-step.ts",
        'state: { phase: "leaving", generation, acked, releaseFrom },',
        'state: { phase: "ending", generation },',
      ),
      in1(
        "core/primary-step.ts",
        '{ type: "send-goodbye" },',
        '{ type: "send-goodbye" },\n      { type: "release-all" },\n      { type: "end-capture" },',
      ),
    ],
  },
  "a lost handover is taken for a refused one": {
    why: "the VM runs on at the old primary although the new one may have it (I3)",
    focus: {
      style: "storm",
      faults: ["link is cut", "connection is reset at one end"],
      orders: ["switchover"],
    },
    patches: [
      in1(
        "core/primary-handover.ts",
        '    case "link-lost":\n',
        '    case "link-lost":\n      return handoverRefused(state, { type: "handover-refused", reason: event.reason, stoodDown: true, generation: state.generation }, now, settings);\n',
      ),
    ],
  },
  "TAKEOVER before the VM runs, in a switchover": {
    why: "the old primary gives its copy up before the new one is known to run (I4)",
    focus: { style: "one", faults: ["standby cannot load"] },
    patches: [
      in1(
        "core/backup-takeover.ts",
        '...(planned ? [] : [{ type: "takeover", generation, epoch: acked } as const])',
        '...[{ type: "takeover", generation, epoch: acked } as const]',
      ),
      in1(
        "core/backup-takeover.ts",
        '...(planned ? [{ type: "takeover", generation, epoch: acked } as const] : []),',
        "",
      ),
    ],
  },
  "a start ignores the newest claim": {
    why: "a host that lost the VM while it was down starts it again (I2, I3)",
    focus: { style: "few", faults: LOST },
    patches: [
      in1(
        "core/start-up.ts",
        "if (newest !== undefined && newest.host !== host && newest.generation > (record?.generation ?? 0))",
        "if (false as boolean)",
      ),
      in1(
        "core/start-up.ts",
        "newest?.host === host && newest.generation > record.generation",
        "newest !== undefined",
      ),
    ],
  },
  "a start ignores an open session": {
    why: "a host starts its VM although the backup of its last protection may be given it at this moment (I3)",
    focus: { style: "storm", faults: [...LOST, "witness is out of reach for one", "guardian stands still"] },
    patches: [
      in1(
        "core/start-up.ts",
        "if (record.session === undefined || wonSince || !witnessed)",
        "if (record.session === undefined || wonSince || witnessed)",
      ),
    ],
  },
  "the state file is not synced": {
    why: "what a host notes of itself is acted upon before it is on stable storage",
    focus: { style: "few", faults: ["host loses power"] },
    patches: [
      in1("disk/state-file.ts", "await file.sync();", ""),
      in1("disk/state-file.ts", "await directory.sync();", ""),
    ],
  },
  "suspects are forgotten": {
    why: "an old primary's last writes, which the other host never got, stay in its image (I7)",
    focus: { style: "few", faults: LOST },
    patches: [
      in1(
        "guardian/disks/backup-disks.ts",
        "const suspects = union(intents, MAX_SUSPECTS).map(({ from, to }) => [from, to - from] as const);",
        "const suspects = union([], MAX_SUSPECTS).map(({ from, to }) => [from, to - from] as const);",
      ),
    ],
  },
  "said to be safe before it is": {
    why: "a backup says that a checkpoint is on its stable storage, and records are trusted from there on, before it has flushed (I7)",
    focus: { style: "few", faults: ["host loses power"] },
    patches: [
      in1(
        "guardian/disks/backup-disks.ts",
        "await this.applier.flush();\n    // Of a session",
        "// Of a session",
      ),
    ],
  },
  "frames are tagged with the epoch before": {
    why: "the cut is wrong: a frame of epoch N + 1 leaves with the ack of N (I1)",
    focus: { style: "few", faults: LOST },
    patches: [
      in1(
        "memory/epoch-cell.ts",
        "return Number(Atomics.load(this.word, 0));",
        "return Math.max(0, Number(Atomics.load(this.word, 0)) - 1);",
      ),
    ],
  },
  "a dead QEMU looks like an ended protection": {
    why: "the capture stream of a QEMU that has crashed ends, and the backup is told goodbye (I4)",
    focus: { style: "one", faults: ["QEMU crashes"] },
    patches: [
      in1(
        "guardian/primary/primary.ts",
        "if ((await this.vm.answers()) && ",
        "if ((await this.vm.answers(), true) && ",
      ),
    ],
  },
  "the pacer waits for nobody": {
    why: "checkpoints are taken however many are on their way (I6)",
    focus: { style: "few", faults: ["link is slow"] },
    patches: [
      in1("core/pacer.ts", 'return { kind: "blocked", by: "link" };', 'return { kind: "now" };'),
      in1(
        "core/pacer.ts",
        "if (epochs.running - 1 - epochs.acked >= inFlightAllowed(pacer, settings, now))",
        "if (false as boolean)",
      ),
    ],
  },
  "protection is not wished for any more": {
    why: "a primary that has lost its backup waits for somebody to ask (liveness)",
    focus: {},
    patches: [in1("core/keep-protected.ts", "return wanted && phase", "return false && phase")],
  },
  "a lost primary's VM is given up for a full disk": {
    why: "a backup whose image has no room stands down, though nobody else has the VM (I4)",
    focus: { style: "one", faults: ["host loses power, and the other's image has no room for a while"] },
    patches: [
      in1(
        "core/backup-takeover.ts",
        "if (state.planned) return standDown(",
        "if (true as boolean) return standDown(",
      ),
    ],
  },
  "a primary lost late in a handover still counts as waiting": {
    why: "the only copy is ended because it hangs, as if the old primary could go on (I4, I5)",
    focus: {
      style: "one",
      faults: ["host loses power as it hands the VM over, and the standby hangs for a while"],
    },
    patches: [
      in1(
        "core/backup-takeover.ts",
        "if (!planned) return stay(state);\n      // The old",
        "if (true as boolean) return stay(state);\n      // The old",
      ),
    ],
  },
  "an error in the backup's code drops what it has acknowledged": {
    why: "what may be all that is left of the VM is thrown away (I4)",
    focus: { style: "one", faults: ["a step fails, and host loses power"] },
    patches: [in1("core/effect-failures.ts", 'return broken ? remedy : "primary-lost";', "return remedy;")],
  },
  "the backup waits for the end of a process that was killed": {
    why: "a QEMU that waits for storage keeps its VM from going on at the backup (I4)",
    focus: { style: "one", faults: ["QEMU hangs, and cannot be killed for long"] },
    patches: [in1("guardian/primary/kill-vm.ts", "  link.close();\n", "")],
  },
  "what was not taken of a checkpoint is left out": {
    why: "images that did not take a checkpoint are tried again with the next one (I2)",
    focus: { style: "one", faults: ["host loses power, and the other's image has no room for a while"] },
    patches: [
      in1(
        "guardian/backup/committer.ts",
        "this.stuck = !applied;\n      if (!applied) return;",
        "this.stuck = false;",
      ),
    ],
  },
  ...WIDE_BUGS,
};
