/**
 * `npm run bench`: how long a checkpoint stops the VM. Three kinds in turn, round by round, in one run:
 *
 *   drained   QEMU's own floor: checkpoints are read and thrown away; no output held, no backup
 *   colo      stock QEMU COLO: a second QEMU, over a unix socket; no output held, nothing compared
 *   remus     everything: output held, checkpoint sent, acknowledged and committed
 *
 * Each has the same VM in the same lab and one client that counts over TCP. The pause is QMP STOP to RESUME,
 * by QEMU's clock.
 *
 * With --disk the VM has a disk with Redis's data on it, every write synced, and the kinds are
 *
 *   drained      as above, the disk not replicated: what QEMU flushes at each stop is in it
 *   strict       everything, the disk replicated, `durability: strict`
 *   replicated   the same with `durability: replicated`
 *
 * Options: --rounds 3, --seconds 8 (per kind and round), --interval 25, --load idle|busy (default both),
 * --disk.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { MOST_IN_SLICE } from "../src/guardian/primary/samples.ts";
import { QemuCapture } from "../src/hypervisor/qemu/capture.ts";
import { qemuCommand } from "../src/hypervisor/qemu/command-line.ts";
import { QemuProcess } from "../src/hypervisor/qemu/process.ts";
import { buildTcgAids } from "../src/hypervisor/qemu/tcg-aids.ts";
import type { LabDisk } from "../src/lab/disks.ts";
import { Lab } from "../src/lab/lab.ts";
import { EpochCell } from "../src/memory/epoch-cell.ts";
import { Staging } from "../src/memory/staging.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    seconds: { type: "string", default: "8" },
    interval: { type: "string", default: "25" },
    load: { type: "string" },
    disk: { type: "boolean", default: false },
  },
});
const seconds = Number(values.seconds);
const intervalMs = Number(values.interval);
const loads = values.load === undefined ? (["idle", "busy"] as const) : [values.load as "idle" | "busy"];

interface Measured {
  readonly pausesMs: readonly number[];
  readonly pages: readonly number[];
}

const pause = (ms: number) => new Promise((next) => setTimeout(next, ms));

/** A QEMU of the bench's own in the lab: on host A with the VM's tap, or as a secondary on host B. */
async function ownQemu(lab: Lab, host: "a" | "b", more: readonly string[]): Promise<QemuProcess> {
  const runDirectory = join(lab.directory, `bench-${host}`);
  await mkdir(runDirectory, { recursive: true });
  const command = qemuCommand(lab.vm, {
    role: "primary",
    accelerator: "tcg",
    qmpSockets: QemuProcess.monitorPaths(runDirectory),
    ...(host === "a" ? { serialLog: lab.serialLog } : {}),
  });
  return await QemuProcess.start({
    command: [...lab.network.exec(host), ...command, ...more],
    preload: await buildTcgAids(lab.cacheDirectory),
    runDirectory,
    bindLifetimes: true,
  });
}

/** Collects the pauses of a QEMU from now on. */
function watchPauses(qemu: QemuProcess, into: number[]): { clear(): void } {
  let stoppedUs = 0;
  qemu.qmp.on("STOP", (_data, us) => {
    stoppedUs = us;
  });
  qemu.qmp.on("RESUME", (_data, us) => into.push((us - stoppedUs) / 1000));
  return { clear: () => into.splice(0) };
}

async function withClient(lab: Lab, run: () => Promise<void>): Promise<void> {
  const client = lab.client();
  await client.answers(20, 30_000);
  try {
    await run();
  } finally {
    client.kill();
  }
}

async function drained(lab: Lab): Promise<Measured> {
  const measured = { pausesMs: [] as number[], pages: [] as number[] };
  const qemu = await ownQemu(lab, "a", []);
  try {
    await lab.guestReady();
    await withClient(lab, async () => {
      const pauses = watchPauses(qemu, measured.pausesMs);
      const staging = Staging.ofSize(64 << 20);
      const began = Promise.withResolvers<void>();
      let dueMs = 0;
      const capture: QemuCapture = await QemuCapture.start(qemu.qmp, {
        staging,
        epochCell: new EpochCell(),
        firstPauseMs: 50,
        onReport(report) {
          if (report.kind === "pages") staging.give(report.batch.chunk);
          else if (report.kind === "captured" && report.epoch === 0) {
            capture.begin();
            dueMs = performance.now();
            began.resolve();
          } else if (report.kind === "captured") measured.pages.push(report.pages);
          else if (report.kind === "requested") {
            dueMs = Math.max(dueMs + intervalMs, performance.now());
            setTimeout(() => capture.capture(false), Math.max(0, dueMs - performance.now()));
          }
        },
      });
      await began.promise;
      pauses.clear();
      await pause(seconds * 1000);
    });
  } finally {
    qemu.kill();
    await qemu.exited;
  }
  return measured;
}

async function colo(lab: Lab): Promise<Measured> {
  const measured = { pausesMs: [] as number[], pages: [] as number[] };
  const socket = join(lab.directory, "colo.sock");
  const primary = await ownQemu(lab, "a", []);
  const secondary = await ownQemu(lab, "b", ["-incoming", "defer"]);
  try {
    await lab.guestReady();
    await withClient(lab, async () => {
      const capabilities = [
        { capability: "x-colo", state: true },
        { capability: "events", state: true },
      ];
      await secondary.qmp.execute("migrate-set-capabilities", { capabilities });
      await secondary.qmp.execute("migrate-incoming", { uri: `unix:${socket}` });
      await primary.qmp.execute("migrate-set-capabilities", { capabilities });
      await primary.qmp.execute("migrate-set-parameters", {
        "max-bandwidth": 2 ** 40,
        "x-checkpoint-delay": intervalMs,
      });
      const inColo = Promise.withResolvers<void>();
      primary.qmp.on("MIGRATION", (data) => {
        if ((data as { status: string }).status === "colo") inColo.resolve();
      });
      const pauses = watchPauses(primary, measured.pausesMs);
      await primary.qmp.execute("migrate", { uri: `unix:${socket}` });
      await inColo.promise;
      await pause(1000);
      pauses.clear();
      await pause(seconds * 1000);
    });
  } finally {
    for (const qemu of [primary, secondary]) {
      qemu.kill();
      await qemu.exited;
    }
  }
  return measured;
}

async function remus(lab: Lab): Promise<Measured & { rate: number }> {
  await lab.start();
  const all = { pausesMs: [] as number[], pages: [] as number[], rate: 0 };
  await withClient(lab, async () => {
    await lab.protect();
    await pause(500);
    await lab.primary.control.order("reset-statistics");
    await pause(seconds * 1000);
    for (let from = 0, count = 1; from < count; from += MOST_IN_SLICE) {
      const slice = await lab.primary.control.order("samples", { from });
      all.pausesMs.push(...slice.pauseMs.samples);
      all.pages.push(...slice.dirtyPages.samples);
      if (from === 0) {
        all.rate = slice.checkpointsPerSecond;
        count = slice.dirtyPages.count;
      }
    }
  });
  return all;
}

function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

function row(kind: string, { pausesMs, pages }: Measured): string {
  const ms = (share: number) => percentile(pausesMs, share).toFixed(2).padStart(7);
  const median = pages.length === 0 ? "not known" : String(percentile(pages, 0.5));
  return `${kind.padEnd(10)} ${ms(0.5)} ${ms(0.95)} ${ms(0.99)} ${ms(1)}   ${String(pausesMs.length).padStart(6)}   ${median}`;
}

interface Kind {
  readonly measure: (lab: Lab) => Promise<Measured>;
  readonly disks?: readonly LabDisk[];
}

const disk = (durability: "strict" | "replicated"): LabDisk[] => [
  { mebibytes: 256, use: "data", durability },
];
const kinds: Readonly<Record<string, Kind>> = values.disk
  ? {
      drained: { measure: drained, disks: disk("strict") },
      strict: { measure: remus, disks: disk("strict") },
      replicated: { measure: remus, disks: disk("replicated") },
    }
  : { drained: { measure: drained }, colo: { measure: colo }, remus: { measure: remus } };
for (const load of loads) {
  const all = new Map<string, Measured>();
  for (let round = 1; round <= Number(values.rounds); round++)
    for (const [kind, { measure, disks = [] }] of Object.entries(kinds)) {
      const lab = await Lab.create({ load, intervalMs, disks });
      try {
        const measured = await measure(lab);
        const before = all.get(kind) ?? { pausesMs: [], pages: [] };
        all.set(kind, {
          pausesMs: [...before.pausesMs, ...measured.pausesMs],
          pages: [...before.pages, ...measured.pages],
        });
        console.error(`round ${round}, ${load}: ${row(kind, measured)}`);
      } finally {
        await lab.destroy();
      }
    }
  console.log(`load ${load}, interval ${intervalMs} ms, pause in ms:`);
  console.log("kind           p50     p95     p99     max   pauses   dirty pages (median)");
  for (const [kind, measured] of all) console.log(row(kind, measured));
  console.log();
}
