// A host that has the only copy of a VM does not lose it to what lies beside it (I5): a note that cannot be
// written, disks that cannot be flushed, a kernel that is gone, a standby that hangs; and a guardian that was
// killed leaves nothing for long.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { BackupState } from "../../src/core/backup.ts";
import { StateFile } from "../../src/disk/state-file.ts";
import { isSpare } from "../../src/guardian/backup/failures.ts";
import type { PrimaryConfig } from "../../src/guardian/config/config.ts";
import type { Context } from "../../src/guardian/context.ts";
import { OwnedDisks } from "../../src/guardian/disks/owned-disks.ts";
import type { HostEnvironment } from "../../src/guardian/host-environment.ts";
import { BootFiles } from "../../src/guardian/primary/boot-files.ts";
import { refuseWithoutPeer } from "../../src/guardian/primary/new-protection.ts";
import { sweepLeftovers } from "../../src/guardian/sweep-leftovers.ts";
import { bootFingerprint } from "../../src/hypervisor/qemu/fingerprint.ts";
import type { Qmp } from "../../src/hypervisor/qemu/qmp.ts";

const VM = "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10";
const DEADLINE_MS = 20_000;

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "remus-survivor-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

async function until(what: string, is: () => boolean): Promise<void> {
  for (const end = Date.now() + DEADLINE_MS; !is(); ) {
    assert.ok(Date.now() < end, what);
    await new Promise((next) => setTimeout(next, 5));
  }
}

/** Where alarms and log lines go. */
class Ears {
  readonly alarms = new Map<string, string>();
  readonly lines: string[] = [];
  readonly log = { info: this.hear("info"), warn: this.hear("warn"), error: this.hear("error") };
  readonly control = {
    publish: ({ kind, about, raised, text }: Readonly<Record<string, unknown>>) => {
      if (kind !== "alarm") return;
      if (raised === true) this.alarms.set(String(about), String(text));
      else this.alarms.delete(String(about));
    },
  };
  private hear(level: string) {
    return (text: string) => void this.lines.push(`${level}: ${text}`);
  }
}

async function owned(t: TestContext, disks: readonly object[] = []) {
  const ears = new Ears();
  const state = join(folder(t), "state");
  mkdirSync(state);
  const path = join(state, "vm1.json");
  const record = await StateFile.open(path, VM);
  const config = { vm: { disks }, runDirectory: state };
  const context = {
    config,
    record,
    log: ears.log,
    control: ears.control,
  } as unknown as Context<PrimaryConfig>;
  const images = disks.map(() => ({ virtualBytes: 512 }));
  return { ears, path, state, all: new OwnedDisks(context, { images } as unknown as HostEnvironment) };
}

const noted = (path: string) => JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;

test("I5: a note that cannot be written is tried again until it is, and a newer one is never overwritten", async (t) => {
  const { all, ears, path, state } = await owned(t);
  rmSync(state, { recursive: true });
  writeFileSync(state, "in the way");
  await all.noteSoon(3, true);
  assert.match(ears.alarms.get("record") ?? "", /noting in .* has failed, and is tried again/);
  rmSync(state);
  await until("it is noted", () => ears.alarms.size === 0);
  assert.deepEqual(noted(path), { version: 1, vm: VM, generation: 3, images: "owner", wanted: true });

  rmSync(state, { recursive: true });
  writeFileSync(state, "in the way");
  await all.noteSoon(4, true);
  await assert.rejects(all.note(5, false));
  rmSync(state);
  await until("the older one is given up", () => ears.alarms.size === 0);
  await all.note(5, false);
  assert.equal(noted(path).generation, 5);
});

test("I2: disks that cannot be flushed after a takeover are tried again; until then nothing notes them as the VM's, and nothing protects them", async (t) => {
  const { all, ears, path } = await owned(t, [{ storage: "replicated", image: "/dev/null" }]);
  let exports = 0;
  const qmp = {
    execute: async (command: string) => {
      if (command === "nbd-server-start") exports++;
      throw new Error(`no ${command} today`);
    },
  } as unknown as Qmp;
  let here = true;
  const settled = all.settle(qmp, 2, { wanted: () => true, here: () => here });
  await until("a second try", () => exports > 1);
  assert.match(ears.alarms.get("record") ?? "", /stable storage.*no nbd-server-start today/);
  await assert.rejects(all.settled(), { name: "OrderRefused", message: /not on stable storage yet/ });
  await all.noteSoon(2, false);
  assert.equal(noted(path).images, "syncing");
  here = false;
  await settled;
  assert.equal(ears.alarms.size, 0);
});

test("I5: a VM without a peer in its host's file runs on, and protecting it is refused with a sentence", () => {
  const config = (peer: object[]) => ({ replication: { peer } }) as unknown as PrimaryConfig;
  refuseWithoutPeer(config([{}]));
  assert.throws(() => refuseWithoutPeer(config([])), { name: "OrderRefused", code: "no-peer" });
});

test("I5: a standby that hangs is ended only while the VM is elsewhere", () => {
  const holding = { generation: 1, acked: 5, committed: 3 };
  const spare: [BackupState, boolean][] = [
    [{ phase: "waiting", generation: 1 }, true],
    [{ phase: "filling", generation: 1 }, true],
    [{ ...holding, phase: "armed" }, true],
    [{ ...holding, phase: "arbitrating", planned: true }, true],
    [{ ...holding, phase: "arbitrating", planned: false }, false],
    [{ ...holding, phase: "recovering", planned: true }, true],
    [{ ...holding, phase: "recovering", planned: false }, false],
    [{ phase: "running", generation: 2 }, false],
    [{ phase: "stood-down", generation: 2, reason: "" }, true],
  ];
  for (const [state, expected] of spare) assert.equal(isSpare(state), expected, JSON.stringify(state));
});

test("I5: a kernel that goes away ends nothing: an alarm stands, protection is refused, and it is over when the file is back", (t) => {
  const ears = new Ears();
  const [kernel, initrd] = ["kernel", "initrd"].map((name) => join(folder(t), name)) as [string, string];
  for (const path of [kernel, initrd]) writeFileSync(path, path);
  const vm = { boot: { kind: "kernel", kernel, initrd, append: "" } as const };
  // Of the time when QEMU was started; nothing reads the files for it again.
  const loaded = bootFingerprint(vm);
  const files = new BootFiles(ears, vm);
  files.refuseMissing();
  for (const [field, path] of [
    ["kernel", kernel],
    ["initrd", initrd],
  ] as const) {
    rmSync(path);
    assert.match(files.look() ?? "", new RegExp(`vm.boot.${field} cannot be read`));
    assert.match(ears.alarms.get("boot-files") ?? "", /The VM runs on; it cannot be protected/);
    assert.throws(() => files.refuseMissing(), { name: "OrderRefused", code: "boot-files" });
    writeFileSync(path, "another one");
    files.refuseMissing();
    assert.equal(ears.alarms.size, 0);
  }
  assert.notDeepEqual(bootFingerprint(vm), loaded);
});

test("what a killed guardian has left is removed at the next start; what is somebody else's stays", async (t) => {
  const ears = new Ears();
  const [imageDirectory, runDirectory, stateDirectory] = [folder(t), folder(t), folder(t)];
  const dirs = { imageDirectory, runDirectory, stateDirectory };
  const socket = async (name: string) => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(runDirectory, name), resolve));
    t.after(() => server.close());
    return join(runDirectory, name);
  };
  const gone = [
    join(imageDirectory, "vm1.ram"),
    join(imageDirectory, "vm1.test.ram"),
    await socket("qmp.sock"),
    await socket("standby-disks.sock"),
    await socket("inject-net0.sock"),
  ];
  const stays = [join(imageDirectory, "vm2.ram"), await socket("swtpm.sock"), await socket("control.sock")];
  for (const path of [...gone, ...stays]) if (path.endsWith(".ram")) writeFileSync(path, "");
  mkdirSync(join(stateDirectory, "vm1.test"));
  const vm = { name: "vm1", nics: [] as object[] } as unknown as PrimaryConfig["vm"];
  sweepLeftovers({ ...dirs, vm }, ears.log);
  for (const path of [...gone, join(stateDirectory, "vm1.test")]) assert.ok(!existsSync(path), path);
  for (const path of stays) assert.ok(existsSync(path), path);
  assert.match(ears.lines.join("\n"), /has ended in the midst and left: .*vm1\.ram/);
  sweepLeftovers({ ...dirs, vm }, ears.log);
  assert.equal(ears.lines.length, 1);
});
