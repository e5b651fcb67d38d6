/**
 * A throw-away QEMU that shows whether a standby could take the VM's state: of the same command, with the
 * same RAM image, which it sees and does not change, cut off from the network, with nothing behind its disks.
 * It loads, is ended, and never runs.
 */
import { mkdir, rm } from "node:fs/promises";
import type { ComposedFrom } from "../../codec/migration-compose.ts";
import type { VmSpec } from "../vm-spec.ts";
import { cutOff } from "./clone.ts";
import { qemuCommand } from "./command-line.ts";
import { QemuProcess } from "./process.ts";
import { loadStandby, prepareStandby } from "./standby.ts";
import type { Accelerator } from "./tcg-aids.ts";

export interface ProbeLaunch {
  readonly accelerator: Accelerator;
  /** The RAM image. Some devices look into the guest's RAM when they are loaded. */
  readonly ramFile: string;
  /** For its monitors and messages; made, and removed in the end. */
  readonly runDirectory: string;
  readonly diskBytes: readonly number[];
}

/** A QEMU that has said no has so long to end, and to say why. */
const LAST_WORDS_MS = 2_000;

export class Probe {
  private readonly runDirectory: string;
  private readonly launched: Promise<QemuProcess>;
  private dropped: Promise<void> | undefined;

  /** Begins to start it. What goes wrong is told by `ready`. */
  constructor(spec: VmSpec, launch: ProbeLaunch) {
    this.runDirectory = launch.runDirectory;
    this.launched = start(spec, launch);
    this.launched.catch(() => {});
  }

  /**
   * It waits for the state. Fails with what keeps it from being started here, which says nothing of the
   * state.
   */
  async ready(): Promise<void> {
    await this.launched;
  }

  /**
   * Gives it the state; the RAM image must not change meanwhile. Fails with what QEMU said, which names what
   * it cannot take.
   */
  async load(from: ComposedFrom): Promise<void> {
    const qemu = await this.launched;
    try {
      await loadStandby(qemu.qmp, from);
    } catch (error) {
      const late = setTimeout(() => qemu.kill(), LAST_WORDS_MS);
      const words = (await qemu.exited).replaceAll(/qemu-system-\S+: /g, "");
      clearTimeout(late);
      throw new Error(words, { cause: error });
    }
  }

  /** Ends it, at whatever point it is. Resolves when nothing is left of it. */
  drop(): Promise<void> {
    this.dropped ??= this.end();
    return this.dropped;
  }

  private async end(): Promise<void> {
    const qemu = await this.launched.catch(() => undefined);
    qemu?.kill();
    await qemu?.exited;
    qemu?.qmp.close();
    qemu?.watchdog.close();
    await rm(this.runDirectory, { recursive: true, force: true });
  }
}

async function start(spec: VmSpec, launch: ProbeLaunch): Promise<QemuProcess> {
  const { accelerator, diskBytes, ramFile, runDirectory } = launch;
  await rm(runDirectory, { recursive: true, force: true });
  await mkdir(runDirectory, { recursive: true, mode: 0o700 });
  const qemu = await QemuProcess.start({
    command: [
      ...cutOff(spec),
      ...qemuCommand(spec, {
        role: "standby",
        accelerator,
        qmpSockets: QemuProcess.monitorPaths(runDirectory),
        ramFile,
        probe: { diskBytes },
      }),
    ],
    runDirectory,
    bindLifetimes: true,
  });
  await prepareStandby(qemu.qmp);
  return qemu;
}
