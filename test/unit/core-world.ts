// A small world for the two cores: a VM with numbered frames, a capture thread, a FIFO link that may be cut
// anywhere, a committer, and an arbiter that grants one side. Every action that could happen now is in
// `actions()`; whoever plays picks one after the other. The world checks the invariants itself, against what
// it knows and not against what the cores believe.

import assert from "node:assert/strict";
import { type BackupEvent, type BackupState, startBackup, stepBackup } from "../../src/core/backup.ts";
import { startPrimary, stepPrimary } from "../../src/core/primary.ts";
import type { PrimaryEvent, PrimaryState } from "../../src/core/primary-protocol.ts";
import { HeldOutput } from "../../src/net/held-output.ts";
import {
  type Link,
  type ToBackup,
  type ToPrimary,
  type VmCapture,
  WorldArbiter,
} from "./core-world-parts.ts";

const SETTINGS = { intervalMs: 5, maxInFlight: 3, maxInFlightBytes: 2 ** 20 };
const FRAME_BYTES = 10;

export class World {
  primary: PrimaryState = startPrimary(1);
  backup: BackupState = startBackup(1);
  primaryAlive = true;
  backupAlive = true;
  /** Things done to the world that are failures in the sense of I4. */
  faults = 0;
  releasedFrames = 0;
  /** The backup died as the one host that had the VM. */
  diedAsOwner = false;
  readonly log: string[] = [];

  private now = 0;
  private link: Link | undefined;
  private sessionGeneration = 0;
  // The VM and its capture at the primary.
  private vmEpoch = 0;
  private capture: VmCapture = "none";
  private wantsHold = false;
  /** The backup was asked to run the VM, and has not refused. */
  private handedOver = false;
  /** The first epoch of which a write to a disk was not copied. */
  private diskBrokenIn: number | undefined;
  private diskFailureKnown = false;
  /** Somebody has asked for a hold and has not taken it back. */
  private somebodyHolds = false;
  /** Tries to connect that are under way; all but the newest were given up. */
  private attempts: number[] = [];
  private lastAttempt = 0;
  private ending = false;
  private vmKilled = false;
  private held: HeldOutput | undefined;
  private heldEpochs: number[] = [];
  private freed = false;
  // The backup's side.
  private partOf: number | undefined;
  private ackedBySession = -1;
  private imagesAt = -1;
  private commits: number[] = [];
  /** The images did not take the first of them. */
  private commitsStuck = false;
  private standbyStarts = false;
  private readonly arbiter = new WorldArbiter();

  /** Everything that could happen now but for faults: orders, and what goes on by itself. */
  actions(): [string, () => void][] {
    const all: [string, () => void][] = [];
    if (this.primaryAlive && !this.vmKilled) this.primaryActions(all);
    this.linkActions(all);
    if (this.backupAlive) this.backupActions(all);
    return all;
  }

  /** How a part of the protection could fail now: that ends it, and is no failure in the sense of I4. */
  partFailures(): [string, () => void][] {
    const { capture } = this;
    const all: [string, () => void][] = [];
    if (!this.primaryAlive || this.vmKilled || this.ending) return all;
    if (["first-pass", "running", "requested", "busy", "held"].includes(capture))
      all.push(["capture-fails", () => this.captureFails()]);
    if (this.held !== undefined)
      all.push(["output-fails", () => this.feedPrimary({ type: "output-failed", reason: "a fault" })]);
    if (capture !== "none" && this.diskBrokenIn === undefined)
      all.push([
        "disk-breaks",
        () => {
          this.diskBrokenIn = this.vmEpoch;
        },
      ]);
    return all;
  }

  /** How a host, a link or a process could fail now. */
  failures(): [string, () => void][] {
    const all: [string, () => void][] = [];
    this.faultActions(all);
    return all;
  }

  /** Carries an action out and looks at what must hold at all times. */
  take([name, act]: readonly [string, () => void]): void {
    this.log.push(name);
    this.now += 3;
    act();
    if (this.backup.phase === "running")
      assert.equal(this.owner, "backup", "I3: the standby runs without the arbiter's word");
    if (this.handedOver && this.primaryAlive && !this.vmKilled)
      assert.ok(this.vmIsPaused, "I3: the VM runs here while the backup may be running it");
  }

  /** Lets everything come to rest without new faults, orders and epochs; then says who runs the VM. */
  settle(): { primaryRuns: boolean; backupRuns: boolean } {
    for (let steps = 0; ; steps++) {
      assert.ok(steps < 1000, "the world does not come to rest");
      const quiet = /^(emit|tick|request|protect|stop|hold|switchover|first-pass|begin)/;
      const next = this.actions().find(([name]) => !quiet.test(name));
      if (next === undefined) break;
      this.take(next);
    }
    return {
      primaryRuns: this.primaryAlive && !this.vmKilled,
      backupRuns: this.backupAlive && this.backup.phase === "running",
    };
  }

  /** Whom the arbiter has given the VM of this session. */
  private get owner(): "primary" | "backup" | undefined {
    return this.arbiter.winner(this.sessionGeneration);
  }

  get outputIsHeld(): boolean {
    return this.held !== undefined && !this.freed;
  }

  get vmIsPaused(): boolean {
    return ["paused", "busy", "held", "broken-paused"].includes(this.capture);
  }

  /** The VM may be paused for long only for somebody who looks at it, and while it is protected. */
  get vmMayBePaused(): boolean {
    return this.somebodyHolds && this.primary.phase === "protected";
  }

  // What may happen

  private primaryActions(all: [string, () => void][]): void {
    const { capture } = this;
    const order = (type: "protect-asked" | "stop-asked") => () => this.feedPrimary({ type });
    all.push(["tick", () => this.feedPrimary({ type: "tick" })]);
    if (this.primary.phase === "unprotected" && !this.ending) all.push(["protect", order("protect-asked")]);
    if (this.primary.phase !== "unprotected") all.push(["stop", order("stop-asked")]);
    if (this.primary.phase === "protected") all.push(["hold", () => this.holdOrProceed("hold-asked")]);
    // At any time: before the checkpoint, in its midst, and when the VM is held.
    if (this.somebodyHolds && this.primary.phase === "protected")
      all.push(["proceed", () => this.holdOrProceed("proceed-asked")]);
    if (this.attempts.length > 0 && this.link === undefined) all.push(["connect", () => this.connect()]);
    if (!this.vmIsPaused) all.push(["emit", () => this.emit()]);
    if (this.ending) all.push(["capture-ended", () => this.endCapture()]);
    else if (capture === "first-pass") all.push(["first-pass", () => this.firstPass()]);
    else if (capture === "running") all.push(["request", () => this.request()]);
    else if (capture === "busy")
      all.push(["captured", () => this.captured()], ["put-off", () => this.putOff()]);
    if (this.primary.phase === "protected")
      all.push(["switchover", () => this.feedPrimary({ type: "switchover-asked" })]);
    if (!this.ending && this.diskBrokenIn !== undefined && !this.diskFailureKnown)
      all.push(["disk-fails", () => this.diskFails()]);
    if (this.arbiter.asks.primary !== undefined)
      all.push(["verdict-primary", () => this.feedPrimary(this.arbiter.answer("primary"))]);
  }

  private linkActions(all: [string, () => void][]): void {
    const { link } = this;
    if (link === undefined) return;
    if (link.backupUses && this.backupAlive) {
      if (link.toBackup.length > 0) all.push(["to-backup", () => this.deliverToBackup(link)]);
      if (link.cut || !link.primaryUses) all.push(["backup-sees-end", () => this.seeEnd(link, "backup")]);
    }
    if (link.primaryUses && this.primaryAlive) {
      if (link.toPrimary.length > 0) all.push(["to-primary", () => this.deliverToPrimary(link)]);
      if (link.cut || !link.backupUses) all.push(["primary-sees-end", () => this.seeEnd(link, "primary")]);
    }
    if (!(link.primaryUses && this.primaryAlive) && !(link.backupUses && this.backupAlive))
      this.link = undefined;
  }

  private backupActions(all: [string, () => void][]): void {
    if (this.commits.length > 0 && !this.commitsStuck) all.push(["commit", () => this.commit()]);
    if (this.arbiter.asks.backup !== undefined)
      all.push(["verdict-backup", () => this.feedBackup(this.arbiter.answer("backup"))]);
    if (this.standbyStarts) all.push(["standby-runs", () => this.standby({ type: "standby-runs" })]);
  }

  private faultActions(all: [string, () => void][]): void {
    const fault = (name: string, act: () => void) =>
      all.push([
        name,
        () => {
          this.faults++;
          act();
        },
      ]);
    const { link } = this;
    if (link !== undefined && !link.cut) {
      fault("cut", () => {
        link.cut = true;
      });
      // The peer only seems silent: the link lives on.
      if (link.backupUses && this.backupAlive)
        fault("backup-suspects", () => this.feedBackup({ type: "primary-lost", reason: "silent" }));
      if (
        ["syncing", "protected", "handing-over", "leaving"].includes(this.primary.phase) &&
        this.primaryAlive
      )
        fault("primary-suspects", () => this.feedPrimary({ type: "link-lost", reason: "silent" }));
    }
    if (this.primaryAlive && !this.vmKilled)
      fault("hypervisor-hangs", () => this.feedPrimary({ type: "hypervisor-hung", reason: "a fault" }));
    if (this.primaryAlive && this.backupAlive) {
      fault("primary-dies", () => {
        this.primaryAlive = false;
        if (link !== undefined) link.primaryUses = false;
      });
      fault("backup-dies", () => {
        this.backupAlive = false;
        this.diedAsOwner = this.owner === "backup" && this.backup.phase !== "stood-down";
        if (link !== undefined) link.backupUses = false;
      });
    }
    if (!this.backupAlive) return;
    const { backup } = this;
    if (this.standbyStarts)
      fault("standby-fails", () => this.standby({ type: "standby-failed", reason: "a fault" }));
    if (this.commits.length > 0 || backup.phase === "filling")
      fault("commit-fails", () => {
        this.commitsStuck = true;
        this.feedBackup({ type: "commit-failed", reason: "a fault" });
      });
    if (backup.phase === "arbitrating" && backup.planned)
      fault("handover-expires", () => this.feedBackup({ type: "handover-expired" }));
    const next = link?.toBackup[0];
    if (link?.backupUses && next?.type === "handover" && backup.phase === "armed")
      fault("handover-of-another-checkpoint", () => {
        link.toBackup[0] = { ...next, epoch: next.epoch + 1 };
      });
  }

  // The VM, its output and its capture

  private emit(): void {
    if (this.held === undefined || this.freed) {
      this.leavesHost(this.vmEpoch);
      return;
    }
    const free = this.held.take(this.vmEpoch, new Uint8Array(FRAME_BYTES), 1);
    if (free === undefined) this.heldEpochs.push(this.vmEpoch);
    else this.leavesHost(this.vmEpoch);
  }

  /** A frame of `epoch` is seen by the world. */
  private leavesHost(epoch: number): void {
    this.releasedFrames++;
    const disarmed = ["waiting", "filling", "stood-down"].includes(this.backup.phase);
    const oursAlone = this.owner === "primary";
    if (disarmed || oursAlone) return;
    assert.ok(
      epoch <= this.ackedBySession,
      `I1: output of epoch ${epoch} left, the backup holds ${this.ackedBySession}`,
    );
  }

  private release(upTo: number): void {
    for (const _ of this.held!.release(upTo)) this.leavesHost(this.heldEpochs.shift()!);
  }

  private request(): void {
    this.capture = "requested";
    this.feedPrimary({ type: "requested" });
  }

  private firstPass(): void {
    this.capture = "paused";
    this.ship(0);
    this.feedPrimary({ type: "first-pass-done" });
  }

  private captured(): void {
    const epoch = this.vmEpoch++;
    this.capture = this.wantsHold ? "held" : "running";
    this.ship(epoch);
    this.feedPrimary({ type: "captured", epoch, bytes: 4096 });
  }

  /** The VM does not run at this instant; QEMU asks again. */
  private putOff(): void {
    this.capture = "running";
    this.feedPrimary({ type: "capture-put-off" });
  }

  /** As the guardian does: a checkpoint with a write missing never gets its end. */
  private ship(epoch: number): void {
    this.toBackup({ type: "part", epoch });
    if (this.diskBrokenIn === undefined || epoch < this.diskBrokenIn) this.toBackup({ type: "end", epoch });
  }

  /** The guardian hears of it some time later. */
  private diskFails(): void {
    this.diskFailureKnown = true;
    this.feedPrimary({ type: "disk-failed", reason: "a fault" });
  }

  private holdOrProceed(type: "hold-asked" | "proceed-asked"): void {
    const handsOver = this.primary.phase === "protected" && this.primary.switchover;
    this.somebodyHolds = type === "hold-asked" && !handsOver;
    this.feedPrimary(type === "hold-asked" ? { type, atEpoch: 0 } : { type });
  }

  private captureFails(): void {
    // QEMU lets a VM run on when the checkpoint had not begun, or ends; a held one waits until capture is
    // taken out.
    this.capture = this.capture === "held" ? "broken-paused" : "broken";
    this.feedPrimary({ type: "capture-failed", reason: "a fault" });
  }

  private endCapture(): void {
    assert.notEqual(this.capture, "held", "capture is taken out while it keeps the VM paused");
    if (this.held !== undefined)
      assert.equal(this.heldEpochs.length, 0, "output was lost when protection ended");
    this.ending = false;
    this.capture = "none";
    this.somebodyHolds = false;
    this.diskBrokenIn = undefined;
    this.diskFailureKnown = false;
    this.held = undefined;
    this.freed = false;
    this.feedPrimary({ type: "capture-ended" });
  }

  // The link

  private connect(): void {
    const givenUp = this.attempts.shift() !== this.lastAttempt || this.primary.phase !== "connecting";
    if (
      !this.backupAlive ||
      this.backup.phase !== "waiting" ||
      this.backup.generation > this.primary.generation
    ) {
      if (!givenUp) this.feedPrimary({ type: "link-lost", reason: "nobody there" });
      return;
    }
    this.link = {
      toBackup: [{ type: "session" }],
      toPrimary: [],
      cut: false,
      // As the guardian does: a connection that comes after its try was given up is closed at once.
      primaryUses: !givenUp,
      backupUses: true,
    };
  }

  private toBackup(message: ToBackup): void {
    if (this.link?.primaryUses && !this.link.cut) this.link.toBackup.push(message);
  }

  private toPrimary(message: ToPrimary): void {
    if (this.link?.backupUses && !this.link.cut) this.link.toPrimary.push(message);
  }

  private deliverToBackup(link: Link): void {
    const message = link.toBackup.shift()!;
    const { phase } = this.backup;
    if (message.type === "session") {
      this.sessionGeneration = this.primary.generation;
      this.ackedBySession = -1;
      this.imagesAt = -1;
      this.partOf = undefined;
      this.feedBackup({ type: "session-opened", generation: this.primary.generation });
      this.toPrimary({ type: "welcome" });
      return;
    }
    if (message.type === "end" && this.primaryAlive && link.primaryUses)
      this.feedPrimary({ type: "sent", epoch: message.epoch });
    // As the guardian does: who has turned away from a primary takes nothing of it any more.
    if (phase !== "filling" && phase !== "armed") return;
    if (message.type === "goodbye") {
      this.feedBackup({ type: "goodbye" });
    } else if (message.type === "handover") {
      this.feedBackup({ type: "handover-asked", epoch: message.epoch });
    } else if (message.type === "part") {
      this.partOf = message.epoch;
    } else {
      assert.equal(this.partOf, message.epoch, "I2: the end of a checkpoint of which no part has come");
      this.partOf = undefined;
      this.feedBackup({ type: "checkpoint-whole", epoch: message.epoch });
    }
  }

  private deliverToPrimary(link: Link): void {
    const message = link.toPrimary.shift()!;
    if (message.type === "welcome") this.feedPrimary({ type: "link-up" });
    else if (message.type === "ack") this.feedPrimary({ type: "acked", epoch: message.epoch });
    else if (message.type === "goodbye-ok") this.feedPrimary({ type: "goodbye-ok" });
    else if (message.type === "unable") this.unable();
    else if (message.type === "handover-refused") this.handoverRefused(message);
    else this.feedPrimary({ type: "takeover", generation: this.backup.generation });
  }

  private handoverRefused({ stoodDown, generation }: ToPrimary & { type: "handover-refused" }): void {
    this.handedOver = false;
    this.feedPrimary({ type: "handover-refused", reason: "refused", stoodDown, generation });
  }

  private unable(): void {
    this.handedOver = false;
    this.feedPrimary({ type: "unable", reason: "unable" });
  }

  private seeEnd(link: Link, who: "primary" | "backup"): void {
    if (who === "backup") {
      link.backupUses = false;
      this.feedBackup({ type: "primary-lost", reason: "closed" });
    } else {
      link.primaryUses = false;
      this.feedPrimary({ type: "link-lost", reason: "closed" });
    }
  }

  // The backup and the arbiter

  private commit(): void {
    const epoch = this.commits.shift()!;
    assert.equal(epoch, this.imagesAt + 1, "I2: the images move by one whole checkpoint at a time");
    this.imagesAt = epoch;
    this.feedBackup({ type: "committed", epoch });
  }

  private standby(event: BackupEvent): void {
    this.standbyStarts = false;
    this.feedBackup(event);
  }

  private feedPrimary(event: PrimaryEvent): void {
    const { state, effects } = stepPrimary(this.primary, event, this.now, SETTINGS);
    this.primary = state;
    for (const effect of effects)
      switch (effect.type) {
        case "connect":
          this.attempts.push(++this.lastAttempt);
          break;
        case "start-capture":
          assert.equal(this.capture, "none");
          this.capture = "first-pass";
          this.vmEpoch = 0;
          break;
        case "begin-epochs":
          assert.equal(this.capture, "paused");
          this.held = new HeldOutput(1 << 20, 0);
          this.heldEpochs = [];
          this.vmEpoch = 1;
          this.capture = "running";
          break;
        case "capture":
          assert.equal(this.capture, "requested", "a checkpoint was ordered that QEMU has not requested");
          assert.equal(effect.epoch, this.vmEpoch);
          assert.ok(effect.epoch - 1 - this.ackedBySession < SETTINGS.maxInFlight, "I6: too many in flight");
          this.capture = "busy";
          this.wantsHold = effect.hold;
          break;
        case "proceed":
          assert.equal(this.capture, "held");
          if (this.owner === "primary") this.handedOver = false;
          assert.ok(!this.handedOver, "I3: the VM proceeds while the backup may be running it");
          this.capture = "running";
          break;
        case "release":
          assert.ok(effect.upTo <= this.ackedBySession, "I1: released before the backup's ack");
          this.release(effect.upTo);
          break;
        case "release-all":
          this.assertMayFree();
          this.handedOver = false;
          this.release(Number.POSITIVE_INFINITY);
          this.freed = true;
          break;
        case "end-capture":
          this.ending = true;
          break;
        case "send-handover":
          assert.equal(this.capture, "held", "the VM is handed over while it runs");
          assert.equal(effect.epoch, this.vmEpoch - 1);
          assert.equal(
            effect.epoch,
            this.ackedBySession,
            "the VM is handed over at a checkpoint without its ack",
          );
          assert.equal(this.heldEpochs.length, 0, "output is held that clients wait for");
          this.handedOver = true;
          this.toBackup({ type: "handover", epoch: effect.epoch });
          break;
        case "send-goodbye":
          this.toBackup({ type: "goodbye" });
          break;
        case "close-link":
          this.lastAttempt++;
          if (this.link !== undefined) this.link.primaryUses = false;
          break;
        case "ask-arbiter":
          this.arbiter.asks.primary = effect.generation;
          break;
        case "kill-vm":
          this.vmKilled = true;
          // As the guardian does: it ends with a VM that hung.
          if (this.primary.phase !== "superseded") this.primaryAlive = false;
          if (this.link !== undefined) this.link.primaryUses = false;
          break;
      }
  }

  private assertMayFree(): void {
    const disarmed = ["waiting", "filling", "stood-down"].includes(this.backup.phase);
    assert.ok(
      disarmed || this.owner === "primary",
      `I3: all output was set free while the backup, ${this.backup.phase}, could take over`,
    );
  }

  private feedBackup(event: BackupEvent): void {
    const { state, effects } = stepBackup(this.backup, event);
    this.backup = state;
    for (const effect of effects)
      switch (effect.type) {
        case "ack":
          assert.equal(effect.epoch, this.ackedBySession + 1);
          this.ackedBySession = effect.epoch;
          this.toPrimary({ type: "ack", epoch: effect.epoch });
          break;
        case "commit":
          assert.ok(effect.epoch <= this.ackedBySession, "I2: a commit ahead of its ack");
          this.commits.push(effect.epoch);
          break;
        case "commit-again":
          this.commitsStuck = false;
          break;
        case "drop-incomplete":
          this.partOf = undefined;
          break;
        case "forget":
          this.commits = [];
          this.commitsStuck = false;
          this.partOf = undefined;
          this.imagesAt = -1;
          break;
        case "goodbye-ok":
          this.toPrimary({ type: "goodbye-ok" });
          break;
        case "refuse-handover":
          this.toPrimary({
            type: "handover-refused",
            stoodDown: effect.stoodDown,
            generation: this.backup.generation,
          });
          break;
        case "unable":
          this.toPrimary({ type: "unable" });
          if (this.link !== undefined) this.link.backupUses = false;
          break;
        case "close-link":
          if (this.link !== undefined) this.link.backupUses = false;
          break;
        case "ask-arbiter":
          assert.equal(this.partOf, undefined, "I2: an incomplete checkpoint was kept");
          this.arbiter.asks.backup = effect.generation;
          break;
        case "takeover":
          assert.equal(effect.epoch, this.ackedBySession);
          this.toPrimary({ type: "takeover" });
          if (this.link !== undefined) this.link.backupUses = false;
          break;
        case "run-standby":
          assert.equal(this.owner, "backup", "I3: no word from the arbiter");
          assert.equal(effect.epoch, this.ackedBySession, "I2: not the last acknowledged checkpoint");
          assert.equal(this.imagesAt, effect.epoch, "I2: the standby would run what is not in the images");
          assert.equal(this.standbyStarts, false);
          this.standbyStarts = true;
          break;
      }
  }
}
