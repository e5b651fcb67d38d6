/**
 * What is wrong with an image is said in a sentence that names the field, before anything is started or
 * touched.
 */
import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, rename, truncate } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import type { Lab } from "../../src/lab/lab.ts";
import { processRuns } from "../../src/lab/lab.ts";
import { eventually, makeLab, phaseOf } from "./lab-session.ts";

const run = promisify(execFile);
const MIB = 1 << 20;

test("images that cannot be used: refused by name, on either host, and nothing is started", async (t) => {
  const lab = await makeLab(t, {
    disks: [
      { mebibytes: 16, use: "idle" },
      { mebibytes: 16, use: "idle", format: "qcow2", bus: "virtio-scsi" },
    ],
  });
  const [raw, qcow2] = [lab.disks.image("b", 0), lab.disks.image("b", 1)];
  const spec = lab.disks.spec("b");

  await rename(raw, `${raw}.away`);
  await refused(lab, lab.startBackup(), /vm\.disks\[0\]\.image \S+disk0\.raw is not there; make it/);
  await rename(`${raw}.away`, raw);

  const swapped = spec.map((disk) => ({ ...disk, format: disk.format === "raw" ? "qcow2" : "raw" }));
  // Of a raw image only its size can be wrong: what it begins with is the guest's own affair.
  const both = /vm\.disks\[0\]\.image \S+ is no qcow2 image.*vm\.disks\[1\]\.image \S+ has \d+ bytes/s;
  await refused(lab, lab.startBackup({ disks: swapped }), both);

  const readOnly = await readOnlyCopy(lab, raw);
  const unwritable = [{ ...spec[0], image: readOnly }, spec[1]];
  await refused(
    lab,
    lab.startBackup({ disks: unwritable }),
    /vm\.disks\[0\]\.image \S+ lies on a file system that is read-only/,
  );

  for (const [index, format, image] of [
    [0, "raw", raw],
    [1, "qcow2", qcow2],
  ] as const) {
    const other = await useElsewhere(t, format, image);
    const inUse = new RegExp(
      `vm\\.disks\\[${index}\\]\\.image \\S+ is in use by another QEMU; end that first`,
    );
    await refused(lab, lab.startBackup(), inUse);
    // The same at a primary.
    await refused(lab, lab.startPrimary({ disks: spec }), inUse);
    other.kill();
    await once(other, "exit");
  }
});

test("a disk that is too small at the backup: protection is refused by the disk's name, the VM runs on", async (t) => {
  const lab = await makeLab(t, {
    disks: [
      { mebibytes: 16, use: "idle" },
      { mebibytes: 16, use: "idle" },
    ],
  });
  await truncate(lab.disks.image("b", 1), 16 * MIB - 512);
  await Promise.all([lab.startPrimary(), lab.startBackup()]);
  const qemuPid = await lab.qemuPid("a");
  await assert.rejects(
    lab.protect(),
    new RegExp(
      `not the same on both hosts: disks\\[1\\] \\(bytes\\) is ${16 * MIB} at the primary and ${16 * MIB - 512} at the backup`,
    ),
  );
  assert.equal(await phaseOf(lab.primary), "unprotected");
  assert.ok(processRuns(qemuPid));
});

/** The guardian ends with that sentence, no QEMU of the lab's runs, and there is no RAM image. */
async function refused(lab: Lab, start: Promise<unknown>, sentence: RegExp): Promise<void> {
  await assert.rejects(start, sentence);
  assert.deepEqual(qemusOf(lab), []);
  for (const host of ["a", "b"])
    assert.ok(!existsSync(join(lab.directory, host, "image", `${lab.vm.name}.ram`)));
}

function qemusOf(lab: Lab): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ");
      } catch {
        return "";
      }
    })
    .filter((command) => command.includes("qemu-system") && command.includes(lab.directory));
}

/** A copy of an image on a file system that is mounted read-only; the lab unmounts it. */
async function readOnlyCopy(lab: Lab, image: string): Promise<string> {
  const folder = join(lab.disks.directory, "read-only");
  await mkdir(folder);
  await run("mount", ["-t", "tmpfs", "-o", "size=32m", "tmpfs", folder]);
  await run("cp", ["--sparse=always", image, folder]);
  await run("mount", ["-o", "remount,ro", folder]);
  return join(folder, "disk0.raw");
}

/** A QEMU that has nothing to do with us runs a VM from the image. */
async function useElsewhere(t: TestContext, format: string, image: string): Promise<ChildProcess> {
  const other = spawn("qemu-system-x86_64", [
    ...["-nodefaults", "-display", "none", "-machine", "pc,accel=tcg", "-m", "16", "-S"],
    ...["-drive", `file=${image},format=${format},if=virtio`, "-qmp", "stdio"],
  ]);
  t.after(() => other.kill("SIGKILL"));
  let said = "";
  other.stdout.on("data", (text) => {
    said += text;
  });
  await eventually("the other QEMU is there", () => said.includes("QMP"));
  return other;
}
