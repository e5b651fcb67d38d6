/**
 * The proof that this host could go on with the VM: checkpoint 0 is loaded into a QEMU like the standby
 * before it is acknowledged. The VM runs meanwhile, and its output is held.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import type { ComposedFrom } from "../../codec/migration-compose.ts";
import { cloneArguments } from "../../hypervisor/qemu/clone-args.ts";
import { Probe } from "../../hypervisor/qemu/probe.ts";
import type { BackupConfig } from "../config/config.ts";
import type { HostEnvironment } from "../host-environment.ts";
import type { Log } from "../log.ts";

export class CheckpointProof {
  private readonly config: BackupConfig;
  private readonly environment: HostEnvironment;
  private readonly ramFile: string;
  private readonly log: Log;
  private probe: Probe | undefined;
  private readonly folder: string;
  /** Each has a folder of its own: the one before may still be on its way out. */
  private count = 0;

  constructor(parts: { config: BackupConfig; environment: HostEnvironment; ramFile: string; log: Log }) {
    this.config = parts.config;
    this.environment = parts.environment;
    this.ramFile = parts.ramFile;
    this.log = parts.log;
    this.folder = join(parts.config.runDirectory, "probe");
    // What a guardian that was killed has left.
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** A first pass begins: QEMU starts beside it, so that nobody waits for that. */
  begin(): void {
    this.drop();
    const { accelerator, images } = this.environment;
    const { vm } = this.config;
    try {
      cloneArguments(vm.extraArgs);
    } catch (error) {
      this.log.warn(
        `whether this host could go on with the VM is not tried beforehand: ${(error as Error).message}`,
      );
      return;
    }
    this.probe = new Probe(vm, {
      accelerator,
      ramFile: this.ramFile,
      runDirectory: join(this.folder, String(this.count++)),
      diskBytes: images.map(({ virtualBytes }) => virtualBytes),
    });
  }

  /**
   * Resolves when the state has loaded, or cannot be tried. Fails with QEMU's own words, which name what it
   * cannot take.
   */
  async prove(from: ComposedFrom): Promise<void> {
    const { probe } = this;
    if (probe === undefined) return;
    const begunMs = performance.now();
    try {
      if (!(await this.isReady(probe))) return;
      await probe.load(from);
      this.log.info(`checkpoint 0 was loaded on trial, in ${Math.round(performance.now() - begunMs)} ms`);
    } catch (error) {
      const text = (error as Error).message;
      throw new Error(
        `checkpoint 0 does not load here: ${text}. Give the VM on both hosts the same devices, memory and firmware`,
        { cause: error },
      );
    } finally {
      if (probe === this.probe) this.drop();
    }
  }

  /**
   * A host may forbid what the trial needs beside the standby, a network of its own for example: that does
   * not make it unfit.
   */
  private async isReady(probe: Probe): Promise<boolean> {
    try {
      await probe.ready();
      return true;
    } catch (error) {
      this.log.warn(
        `whether this host could go on with the VM is not tried beforehand, for no QEMU could be started for it: ${(error as Error).message}`,
      );
      return false;
    }
  }

  /** Whatever is under way is of no interest any more. */
  drop(): void {
    const { probe } = this;
    this.probe = undefined;
    if (probe === undefined) return;
    probe
      .drop()
      .catch((error: Error) => this.log.warn(`what is left of a trial of checkpoint 0: ${error.message}`));
  }
}
