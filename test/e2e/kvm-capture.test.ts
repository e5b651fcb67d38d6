/**
 * Capture over KVM, whose dirty log is another one than that of software emulation. The guest is firmware and
 * an option ROM of ours: there are machines whose KVM runs that and no Linux. No network card: a boot ROM is
 * code that such a KVM may fail at.
 */
import assert from "node:assert/strict";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { tryFirmware } from "../../src/hypervisor/qemu/accelerator.ts";
import { QemuCapture } from "../../src/hypervisor/qemu/capture.ts";
import type { CaptureReport, PageBatch } from "../../src/hypervisor/qemu/capture-orders.ts";
import { qemuCommand, ramBlockName } from "../../src/hypervisor/qemu/command-line.ts";
import { QemuProcess } from "../../src/hypervisor/qemu/process.ts";
import type { VmSpec } from "../../src/hypervisor/vm-spec.ts";
import { RamComparison } from "../../src/lab/ram-check.ts";
import { BackupImages } from "../../src/memory/backup-images.ts";
import { EpochCell } from "../../src/memory/epoch-cell.ts";
import { Staging } from "../../src/memory/staging.ts";
import { eventually } from "./lab-session.ts";

const MIB = 1 << 20;
const MEMORY_MIB = 32;
const INTERVAL_MS = 25;
const CHECKPOINTS = 45;
const HOLD_EVERY = 5;
const WITHIN_MS = 15_000;

/** The pages that the option ROM writes to: six segments from 10000h on. */
const FIRST_PAGE = 0x10;
const WRITTEN_PAGES = 96;

/**
 * 55 aa, one block, then:
 *   start: mov dx,1000h; segment: mov es,dx; xor di,di; word: inc ax; mov es:[di],ax; add di,1000h; jnz word;
 *   add dx,1000h; cmp dx,7000h; jne segment; jmp start
 * A counter into one word of each page, round and round. All bytes of an option ROM add up to 0.
 */
function countingRom(): Buffer {
  const rom = Buffer.alloc(512);
  Buffer.from("55aa01ba00108ec231ff4026890581c7001075f681c2001081fa007075e8ebe3", "hex").copy(rom);
  rom[511] = -rom.reduce((sum, byte) => sum + byte, 0) & 255;
  return rom;
}

interface Running {
  readonly qemu: QemuProcess;
  readonly ramFile: string;
  readonly directory: string;
}

/** The guest's counter, as it stands in its first page. */
function counterOf({ ramFile }: Running): number {
  const fd = openSync(ramFile, "r");
  try {
    const word = Buffer.alloc(2);
    readSync(fd, word, 0, 2, FIRST_PAGE * 4096);
    return word.readUInt16LE();
  } finally {
    closeSync(fd);
  }
}

/**
 * A VM that counts, gone with the test; undefined where KVM does not run firmware, and the test is skipped
 * with the reason.
 */
async function countingVm(t: TestContext): Promise<Running | undefined> {
  const firmware = await tryFirmware({ accelerator: "kvm" });
  if (!firmware.up) {
    t.skip(`KVM does not run firmware here: ${firmware.why}`);
    return undefined;
  }
  const directory = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "remus-kvm-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const rom = join(directory, "rom");
  const ramFile = join(directory, "ram");
  mkdirSync(join(directory, "run"));
  writeFileSync(rom, countingRom());
  const spec: VmSpec = {
    name: "counting",
    uuid: "7a1f4c9e-4a44-4d57-8d2e-0f3b62f0c0de",
    machine: "pc",
    cpu: "qemu64",
    vcpus: 1,
    memoryMiB: MEMORY_MIB,
    nics: [],
    disks: [],
    boot: { kind: "firmware" },
    extraArgs: ["-option-rom", rom],
  };
  const qmpSockets = QemuProcess.monitorPaths(join(directory, "run"));
  const command = qemuCommand(spec, { role: "primary", accelerator: "kvm", qmpSockets, ramFile });
  const qemu = await QemuProcess.start({
    command,
    runDirectory: join(directory, "run"),
    bindLifetimes: true,
  });
  t.after(async () => {
    qemu.kill();
    await qemu.exited;
  });
  const vm = { qemu, ramFile, directory };
  await eventually("the option ROM counts", () => counterOf(vm) !== 0);
  return vm;
}

function emptyImages({ directory }: Running): Promise<BackupImages> {
  return BackupImages.create(join(directory, "image"), ramBlockName, MEMORY_MIB * MIB);
}

/**
 * The backup in short: whole checkpoints from capture into the images, one at a time, and a comparison at
 * those that are held.
 */
class CaptureRun {
  readonly dirty: number[] = [];
  /** Of each held checkpoint, the pages that differ. */
  readonly differing: { readonly epoch: number; readonly pages: readonly number[] }[] = [];
  /** The guest's counter at each of them. */
  readonly counts: number[] = [];
  private readonly vm: Running;
  private readonly images: BackupImages;
  private readonly staging = Staging.ofSize(64 * MIB);
  private readonly comparison: RamComparison;
  private readonly done = Promise.withResolvers<void>();
  private capture: Promise<QemuCapture> | undefined;
  private incoming: PageBatch[] = [];
  private wakeUp: NodeJS.Timeout | undefined;

  constructor(t: TestContext, vm: Running, images: BackupImages) {
    this.vm = vm;
    this.images = images;
    this.comparison = new RamComparison(vm.ramFile, this.images.path);
    t.after(() => {
      clearTimeout(this.wakeUp);
      this.comparison.close();
      this.images.discard();
    });
    void vm.qemu.exited.then((how) => this.done.reject(new Error(how)));
    this.done.promise.catch(() => {});
  }

  /** Takes `CHECKPOINTS` of them, then ends capture. */
  async run(): Promise<void> {
    const deadline = setTimeout(
      () => this.done.reject(new Error(`only ${this.dirty.length} checkpoints in ${WITHIN_MS} ms`)),
      WITHIN_MS,
    );
    try {
      this.capture = QemuCapture.start(this.vm.qemu.qmp, {
        staging: this.staging,
        epochCell: new EpochCell(),
        firstPauseMs: 50,
        onReport: (report) => this.take(report),
      });
      this.capture.catch((error: Error) => this.done.reject(error));
      await this.done.promise;
    } finally {
      clearTimeout(deadline);
      await (await this.capture)?.stop();
    }
    assert.equal(this.staging.takenBytes, 0, "I6: staging is empty at the end");
  }

  private take(report: CaptureReport): void {
    try {
      this.act(report);
    } catch (error) {
      this.done.reject(error as Error);
    }
  }

  private act(report: CaptureReport): void {
    switch (report.kind) {
      case "layout":
        this.images.begin({ hypervisor: "qemu", header: report.header, blocks: report.blocks });
        return;
      case "pages":
        if (report.epoch === 0) this.write(report.batch);
        else this.incoming.push(report.batch);
        return;
      case "captured":
        for (const batch of this.incoming) this.write(batch);
        this.incoming = [];
        this.captured(report.epoch, report.pages);
        return;
      case "requested": {
        const hold = (this.dirty.length + 1) % HOLD_EVERY === 0;
        this.wakeUp = setTimeout(() => this.order((capture) => capture.capture(hold)), INTERVAL_MS);
        return;
      }
      case "ended":
        this.done.reject(new Error(report.error ?? "capture ended by itself"));
    }
  }

  private captured(epoch: number, pages: number): void {
    if (epoch === 0) {
      this.compare(0);
      this.order((capture) => capture.begin());
      return;
    }
    this.dirty.push(pages);
    if (epoch % HOLD_EVERY !== 0) return;
    this.compare(epoch);
    if (epoch < CHECKPOINTS) this.order((capture) => capture.proceed());
    else this.done.resolve();
  }

  /** The VM is paused. */
  private compare(epoch: number): void {
    this.differing.push({ epoch, pages: this.comparison.differingPages() });
    this.counts.push(counterOf(this.vm));
  }

  /** The first report may come before capture has quite started. */
  private order(give: (capture: QemuCapture) => void): void {
    void this.capture!.then(give);
  }

  private write(batch: PageBatch): void {
    this.images.write({ ...batch, source: this.staging.chunk(batch.chunk) });
    this.staging.give(batch.chunk);
  }
}

test("I7 over KVM: RAM equal at every held checkpoint, also when capture is stopped and started again", async (t) => {
  const vm = await countingVm(t);
  if (vm === undefined) return;
  for (const round of ["first", "second"]) {
    const run: CaptureRun = new CaptureRun(t, vm, await emptyImages(vm));
    await run.run();
    const unequal: readonly unknown[] = run.differing.filter(({ pages }) => pages.length > 0);
    assert.deepEqual(unequal, [], `${round} capture: pages that differ`);
    assert.equal(run.differing.length, 1 + CHECKPOINTS / HOLD_EVERY);
    // What would be equal anyway proves nothing.
    assert.equal(new Set(run.counts).size, run.counts.length, `the guest counts on: ${run.counts}`);
    const median: number = run.dirty.toSorted((a, b) => a - b)[CHECKPOINTS >> 1]!;
    assert.ok(median >= WRITTEN_PAGES / 2, `${median} dirty pages per checkpoint`);
    const { running } = await vm.qemu.qmp.execute<{ running: boolean }>("query-status");
    assert.ok(running, "I5: the VM runs on without capture");
    const stood = counterOf(vm);
    await eventually("I5: the guest counts on without capture", () => counterOf(vm) !== stood);
  }
});
