/**
 * A guest does what guests do (docs/guests.md), with all parts real: what it survives, checkpoints survive;
 * and when it ends, the VM has ended on both hosts, with status 0: the backup does not bring back what nobody
 * wants to run (I3, I5).
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { type Deed, DeedGuest, deedRom } from "./deed-guest.ts";
import { eventually, GRACE_MS, makeLab, phaseOf } from "./lab-session.ts";

/** One lab, in which a VM is started again and again. */
class Lives {
  readonly lab: Lab;
  /** On host A. */
  readonly guest: DeedGuest;
  monitor!: Qmp;
  private readonly t: TestContext;
  private readonly folder: string;
  private extraArgs: string[] = [];

  private constructor(t: TestContext, lab: Lab) {
    this.t = t;
    this.lab = lab;
    this.guest = new DeedGuest(join(lab.directory, "a", "ram"));
    this.folder = mkdtempSync(join(tmpdir(), "remus-lives-"));
    t.after(() => rmSync(this.folder, { recursive: true, force: true }));
    writeFileSync(join(this.folder, "rom"), deedRom());
  }

  static async in(t: TestContext): Promise<Lives> {
    return new Lives(t, await makeLab(t, { guest: "echo", detectionMs: 1000, retryMs: 500 }));
  }

  async startBackup(...more: string[]): Promise<void> {
    this.extraArgs = [
      ...["-option-rom", join(this.folder, "rom"), "-global", "virtio-net-pci.romfile="],
      ...["-device", "pvpanic", "-qmp", `unix:${join(this.folder, "admin")},server=on,wait=off`, ...more],
    ];
    await this.lab.startBackup({ extraArgs: this.extraArgs });
  }

  /** The VM begins anew, beside the backup that waits. */
  async begins(): Promise<void> {
    const { folder, guest, lab, t } = this;
    rmSync(join(lab.directory, "a", "ram"), { force: true });
    await lab.startPrimary({ extraArgs: this.extraArgs });
    this.monitor = await Qmp.connect(join(folder, "admin"));
    const { monitor } = this;
    t.after(() => monitor.close());
    await guest.counts();
    guest.canWake();
    await lab.protect();
    await this.goesOn();
  }

  status() {
    return this.lab.primary.control.primaryStatus();
  }

  async goesOn(): Promise<void> {
    const { acked = -1 } = await this.status();
    await eventually("checkpoints go on", async () => (await this.status()).acked! >= acked + 3, GRACE_MS);
    await this.guest.counts();
  }

  async standsStill(state: string): Promise<void> {
    await eventually(state, async () => (await this.status()).standstill?.state === state, GRACE_MS);
    const { acked } = await this.status();
    await new Promise((over) => setTimeout(over, 300));
    const later = await this.status();
    assert.deepEqual([later.acked, later.standstill?.state], [acked, state]);
    assert.equal(await phaseOf(this.lab.backup), "armed");
  }

  /** The guardian ends with status 0, and the backup waits for the VM to be started again. */
  async endsBy(deed: Deed): Promise<void> {
    const { guest, lab } = this;
    guest.does(deed);
    assert.equal(await lab.guardianOf("a").exited, 0, deed);
    await eventually("the backup waits", async () => (await phaseOf(lab.backup)) === "waiting");
  }
}

test("a guest that reboots, faults, sleeps or is paused is protected on; one that powers off, panics or is not to reboot has ended on both hosts, whatever QEMU was told (I3, I5)", async (t) => {
  const lives = await Lives.in(t);
  const { guest, lab } = lives;
  await lives.startBackup();
  await lives.begins();
  const { generation } = await lives.status();

  for (const deed of ["reset", "triple-fault"] as const) {
    const reset = new Promise<void>((happens) => lives.monitor.on("RESET", () => happens()));
    guest.does(deed);
    await reset;
    await lives.goesOn();
  }
  guest.does("sleep");
  await lives.standsStill("suspended");
  await assert.rejects(lab.primary.control.order("resume"), /the guest sleeps \(S3\)/);
  await lives.monitor.execute("system_wakeup");
  await lives.goesOn();
  await eventually("the operator's pause", async () => {
    // One that meets the pause of a checkpoint is lost in QEMU.
    await lives.monitor.execute("stop");
    return (await lives.status()).standstill?.state === "paused";
  });
  await lives.standsStill("paused");
  await lab.primary.control.order("resume");
  await lives.goesOn();

  await lives.endsBy("power-off");
  await lives.begins();
  await lives.endsBy("panic");

  lab.backup.signal("SIGTERM");
  assert.equal(await lab.backup.exited, 0);
  await lives.startBackup("-no-shutdown", "-no-reboot", "-action", "panic=pause");
  for (const deed of ["power-off", "panic", "reset"] as const) {
    await lives.begins();
    await lives.endsBy(deed);
  }

  // Nobody has claimed the VM meanwhile: it was the backup's at no time, and no start has waited to rule the
  // backup out.
  await lives.begins();
  assert.equal((await lives.status()).generation, generation);
  await lab.kill("power");
  await lab.failedOver();
  const survivor = new DeedGuest(join(lab.directory, "b", "image", "lab.ram"));
  await survivor.counts();
  survivor.does("power-off");
  assert.equal(await lab.guardianOf("b").exited, 0);
});
