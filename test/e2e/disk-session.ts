/** What tests of disks need beside a lab: a monitor of their own, and the two hosts compared. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import type { TestContext } from "node:test";
import { promisify } from "node:util";
import type { SyncSummary } from "../../src/guardian/control/status.ts";
import { blockNodes } from "../../src/hypervisor/qemu/disk-nodes.ts";
import { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import type { VmSpec } from "../../src/hypervisor/vm-spec.ts";
import { countIncrements } from "../../src/lab/append-only-file.ts";
import type { ClientProcess } from "../../src/lab/client-process.ts";
import { checkFileSystem } from "../../src/lab/file-system.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { GRACE_MS } from "./lab-session.ts";

const run = promisify(execFile);
const MIB = 1 << 20;
/**
 * Where how long a failure takes to be noticed is not the question, a busy machine shall not look like one.
 */
export const PATIENT = { detectionMs: 1000 };

/**
 * Boots the lab's VM with one monitor more than its guardian has, as an administrator might, and connects to
 * it. Both hosts get the same words, and the path leads to the QEMU that was started last, which is the
 * primary's.
 */
export async function startWithMonitor(t: TestContext, lab: Lab, vm: Partial<VmSpec> = {}): Promise<Qmp> {
  const directory = await mkdtemp(join(tmpdir(), "remus-admin-"));
  const path = join(directory, "admin.sock");
  const extraArgs = ["-qmp", `unix:${path},server=on,wait=off`];
  await lab.startBackup({ ...vm, extraArgs });
  await lab.startPrimary({ ...vm, extraArgs });
  const monitor = await Qmp.connect(path);
  t.after(async () => {
    monitor.close();
    await rm(directory, { recursive: true, force: true });
  });
  await lab.guestReady();
  return monitor;
}

/** What the guest has asked of a disk, ever. */
export interface Asked {
  readonly writes: number;
  readonly discards: number;
  readonly flushes: number;
}

/** By the disk's number. */
export async function askedOfDisks(monitor: Qmp): Promise<Asked[]> {
  interface Statistics {
    readonly qdev?: string;
    readonly stats: { wr_operations: number; unmap_operations: number; flush_operations: number };
  }
  const all = await monitor.execute<Statistics[]>("query-blockstats");
  const asked: Asked[] = [];
  for (const { qdev, stats } of all) {
    const index = /vdisk(\d+)/.exec(qdev ?? "")?.[1];
    if (index === undefined) continue;
    asked[Number(index)] = {
      writes: stats.wr_operations,
      discards: stats.unmap_operations,
      flushes: stats.flush_operations,
    };
  }
  return asked;
}

/** I7, of RAM and all replicated disks, at a checkpoint. */
export async function assertHostsEqual(lab: Lab): Promise<void> {
  const { epoch, differing, disks } = await lab.ramCheck(0, { disks: true });
  assert.ok(disks.length > 0, "there are disks to compare");
  assert.deepEqual(
    { differing, disks },
    { differing: [], disks: disks.map(({ disk }) => ({ disk, offsets: [] })) },
    `what differs at checkpoint ${epoch}`,
  );
}

/** What the syncs of the present protection came to, by their order. */
export async function syncsOf(lab: Lab): Promise<readonly SyncSummary[]> {
  return (await lab.primary.control.primaryStatus()).syncs;
}

/**
 * The file system on an image is whole, and Redis' file on it has every increment for which the client got an
 * answer (I4).
 */
export async function assertNothingLost(
  image: string,
  format: "raw" | "qcow2",
  answers: number,
): Promise<void> {
  let increments = 0;
  const { clean, complaint } = await checkFileSystem(image, {
    format,
    read: async (files) => {
      increments = await countIncrements((name) => files.read(`/appendonlydir/${name}`), "counter");
    },
  });
  assert.ok(clean, complaint);
  assert.ok(increments >= answers, `${increments} increments on the disk, ${answers} answers`);
}

/** By the disk's number: whether flushes of the guest's reach the host's storage. */
export async function flushing(monitor: Qmp): Promise<boolean[]> {
  const nodes = await blockNodes(monitor);
  const files = [...nodes].filter(([name]) => /^disk\d+-file$/.test(name)).sort();
  return files.map(([, { cache }]) => !cache["no-flush"]);
}

/** Bytes that a file takes on its file system. */
export async function allocatedBytes(path: string): Promise<number> {
  const { stdout } = await run("stat", ["-c", "%b", path]);
  return Number(stdout) * 512;
}

export async function goesOn(client: ClientProcess, answers = 20): Promise<void> {
  await client.answers(answers, GRACE_MS);
}

/**
 * Puts a host's image of a disk on a file system of its own, which the lab unmounts. @returns what fills it
 * up, and names the file to be removed
 */
export async function ownStorage(
  lab: Lab,
  host: "a" | "b",
  disk: number,
  mebibytes: number,
): Promise<{ fill: () => Promise<string> }> {
  const image = lab.disks.image(host, disk);
  const folder = join(lab.disks.directory, host, "storage");
  await mkdir(folder);
  await run("mount", ["-t", "tmpfs", "-o", `size=${mebibytes}m`, "tmpfs", folder]);
  const moved = join(folder, basename(image));
  await run("cp", ["--sparse=always", image, moved]);
  await rename(image, `${image}.before`);
  await symlink(moved, image);
  return {
    fill: async () => {
      const filler = join(folder, "filler");
      await assert.rejects(writeFile(filler, Buffer.alloc(mebibytes * MIB)), /ENOSPC/);
      return filler;
    },
  };
}
