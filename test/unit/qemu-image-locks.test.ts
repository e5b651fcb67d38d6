/**
 * A standby whose image somebody else has, on a real QEMU: it runs the VM when it can have it, and who has it
 * is named (I4, I5).
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { ImageClaims } from "../../src/guardian/backup/image-claims.ts";
import { inUseByOthers, writtenWithOthers } from "../../src/hypervisor/qemu/image-locks.ts";
import { QemuProcess } from "../../src/hypervisor/qemu/process.ts";
import type { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import { runStandby } from "../../src/hypervisor/qemu/standby.ts";

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "remus-locks-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

function image(directory: string, name: string): string {
  const path = join(directory, name);
  writeFileSync(path, "");
  truncateSync(path, 1 << 20);
  return path;
}

/** A machine of 16 MiB with one disk, stopped; gone with the test. */
async function launch(t: TestContext, path: string, device = "", ...args: string[]): Promise<QemuProcess> {
  const runDirectory = folder(t);
  const monitors = QemuProcess.monitorPaths(runDirectory);
  const qemu = await QemuProcess.start({
    command: [
      ...["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-m", "16", "-S"],
      ...["-machine", "pc,accel=tcg"],
      ...monitors.flatMap((monitor) => ["-qmp", `unix:${monitor},server=on,wait=off`]),
      ...["-blockdev", `driver=file,node-name=disk0-file,filename=${path}`],
      ...["-blockdev", "driver=raw,node-name=disk0,file=disk0-file"],
      ...["-device", `virtio-blk-pci,drive=disk0,id=vdisk0${device}`, ...args],
    ],
    runDirectory,
    bindLifetimes: true,
  });
  t.after(async () => {
    qemu.kill();
    await qemu.exited;
  });
  return qemu;
}

async function migrated(qmp: Qmp): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    const { status } = await qmp.execute<{ status?: string }>("query-migrate");
    if (status === "completed") return;
    assert.notEqual(status, "failed");
    await new Promise((again) => setTimeout(again, 20));
  }
  assert.fail("the migration does not come to its end");
}

/** @param exported as a backup's disks are, long before a takeover */
async function standby(t: TestContext, exported: boolean) {
  const directory = folder(t);
  const state = join(directory, "state");
  const source = await launch(t, image(directory, "old.raw"));
  await source.qmp.execute("migrate", { uri: `exec:cat > ${state}` });
  await migrated(source.qmp);
  const path = image(directory, "disk.raw");
  const qemu = await launch(t, path, "", "-incoming", "defer");
  const { qmp } = qemu;
  if (exported) {
    const addr = { type: "unix", data: { path: join(directory, "nbd") } };
    await qmp.execute("nbd-server-start", { addr });
    await qmp.execute("block-export-add", { type: "nbd", id: "disk0", "node-name": "disk0", writable: true });
    await qmp.execute("nbd-server-stop");
  }
  const load = async () => {
    await qmp.execute("migrate-incoming", { uri: `exec:cat ${state}` });
    await migrated(qmp);
  };
  return { path, qemu, load };
}

/** Writes a byte as its guest would. QEMU 7.2 aborts if the image is not its own. */
async function writes({ qmp }: QemuProcess, path: string): Promise<boolean> {
  const device = "/machine/peripheral/vdisk0/virtio-backend";
  await qmp.execute("human-monitor-command", { "command-line": `qemu-io -d ${device} "write -P 65 0 512"` });
  return readFileSync(path)[0] === 65;
}

function claims(t: TestContext, path: string, pid: number) {
  const told: string[] = [];
  const publish = (event: unknown) => {
    const { raised, text } = event as { raised: boolean; text: string };
    told.push(`${raised ? "raised" : "lowered"}: ${text}`);
  };
  const log = { error() {}, info() {}, warn() {} };
  const all = new ImageClaims({ log, control: { publish } } as never, [path], pid);
  t.after(() => all.close());
  return { all, told };
}

test("I4: an image is locked by somebody else when the VM is taken over: it is told to run again, until it does", async (t) => {
  const { load, path, qemu } = await standby(t, false);
  const other = await launch(t, path);
  await load();
  await assert.rejects(runStandby(qemu.qmp), /refused cont: .*lock/i, "who may give up hears why");
  const { all, told } = claims(t, path, qemu.pid);
  const refused = Promise.withResolvers<void>();
  const runs = runStandby(qemu.qmp, {
    mayGiveUp: () => false,
    warn: () => {},
    refused: (reason) => void all.refused(reason).then(refused.resolve),
  });
  await refused.promise;
  assert.match(
    told.join("\n"),
    /^raised: the VM cannot run here yet.*lock.*disk\.raw is in use by qemu-system.*\d+/is,
  );
  assert.ok(told[0]!.includes(`process ${other.pid}`), told[0]);
  other.kill();
  await runs;
  assert.ok(await writes(qemu, path));
  await all.running();
  assert.match(told.at(-1)!, /^lowered/);
  assert.deepEqual(await writtenWithOthers([path], qemu.pid), []);
});

test("a VM that runs although somebody else may write to its image: it goes on, and its operator hears who that is", async (t) => {
  const { load, path, qemu } = await standby(t, true);
  const other = await launch(t, path, ",share-rw=on");
  await load();
  await runStandby(qemu.qmp);
  assert.ok(await writes(qemu, path));
  assert.deepEqual(await writtenWithOthers([path], qemu.pid), [path]);
  const { all, told } = claims(t, path, qemu.pid);
  await all.running();
  assert.match(
    told.join("\n"),
    /^raised: the VM runs, and somebody else may write to its images.*disk\.raw is in use by/,
  );
  assert.ok(told[0]!.includes(`process ${other.pid}`), told[0]);
  other.kill();
  await other.exited;
  await all.running();
  assert.match(told.at(-1)!, /^lowered/);
});

test("a VM that has its image alone is not spoken of", async (t) => {
  const { load, path, qemu } = await standby(t, true);
  await load();
  await runStandby(qemu.qmp);
  assert.deepEqual(await writtenWithOthers([path], qemu.pid), []);
  assert.deepEqual(await inUseByOthers([path], qemu.pid), []);
});
