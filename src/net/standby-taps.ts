/**
 * The taps of a VM that does not run here yet. While it is a standby they are taken out of their bridge: nobody reads them, and a queue
 * full of last week's broadcasts would have no room for what a client sends at failover.
 *
 * When the primary goes silent they are put back a little before anything is decided, so that what clients send again in the meantime
 * waits here for the guest instead of being lost: TCP would try the next time only after twice as long. The taps stay up throughout:
 * a device that comes up may take the kernel a second to carry frames.
 *
 * QEMU reads one frame of a tap ahead, long before its VM runs, and drops it when the state is loaded. So each card's first frame, if it came before that, is given
 * once more when the VM runs.
 */
import { execFile } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { promisify } from "node:util";
import { joinBridge, learnBehind } from "../os/bridge-port.ts";
import { GuestInput, type InputFrame } from "./guest-input.ts";

const run = promisify(execFile);

export interface StandbyNic {
  readonly mac: string;
  readonly tap: string;
}

export class StandbyTaps {
  private readonly nics: readonly StandbyNic[];
  private readonly noteFile: string;
  private readonly warn: (text: string) => void;
  private readonly bridges = new Map<string, string>();
  private parked = false;
  private input: GuestInput | undefined;
  /** What QEMU had read ahead. */
  private dropped: readonly InputFrame[] = [];
  private working: Promise<void> = Promise.resolve();

  /** @param noteFile remembers the bridges, so that a guardian that was killed does not leave the taps without */
  constructor(nics: readonly StandbyNic[], noteFile: string, warn: (text: string) => void) {
    this.nics = nics;
    this.noteFile = noteFile;
    this.warn = warn;
  }

  /** Takes the taps out of their bridges. A tap that is in none is left alone. */
  park(): Promise<void> {
    return this.after(async () => {
      if (this.parked) return;
      this.parked = true;
      this.input?.close();
      this.input = undefined;
      await this.findBridges();
      for (const tap of this.bridges.keys())
        await run("ip", ["link", "set", "dev", tap, "nomaster"]).catch(this.told);
    });
  }

  /**
   * Puts the taps back, and tells the bridge that the guest is behind them: it has learnt the guest's address on its uplink, from
   * where frames for it come, and would drop them. What cannot be done is logged, and costs time only.
   */
  open(): Promise<void> {
    return this.after(async () => {
      if (!this.parked) return;
      this.parked = false;
      this.watch();
      this.putBack((tap, mac) => learnBehind(tap, mac));
    });
  }

  /** QEMU has the VM's state. */
  loaded(): void {
    const seen = this.input?.take() ?? [];
    this.dropped = this.nics.flatMap((_, nic) => seen.find((frame) => frame.nic === nic) ?? []);
  }

  /** The VM runs: it gets what QEMU has dropped, and `more`, which came for it elsewhere. */
  deliver(more: readonly InputFrame[]): void {
    this.watch();
    const { input } = this;
    if (input === undefined) return;
    for (const frame of [...this.dropped, ...more]) input.put(frame);
    input.close();
    this.input = undefined;
  }

  private watch(): void {
    if (this.input !== undefined || this.nics.length === 0) return;
    try {
      this.input = new GuestInput(this.nics.map(({ tap }) => tap));
    } catch (error) {
      this.warn(`frames that come before the VM runs may be lost: ${(error as Error).message}`);
    }
  }

  /** The taps are as we found them; the note is not needed any more. */
  restore(): Promise<void> {
    return this.after(async () => {
      // Of a tap that no QEMU has open the bridge will not be told what is behind it.
      if (this.parked) this.putBack();
      this.parked = false;
      this.input?.close();
      this.input = undefined;
      rmSync(this.noteFile, { force: true });
    });
  }

  private putBack(then: (tap: string, mac: string) => void = () => {}): void {
    for (const { mac, tap } of this.nics) {
      const bridge = this.bridges.get(tap);
      if (bridge === undefined) continue;
      try {
        joinBridge(tap, bridge);
        then(tap, mac);
      } catch (error) {
        this.told(error as Error);
      }
    }
  }

  private after(step: () => Promise<void>): Promise<void> {
    this.working = this.working.then(step).catch(this.told);
    return this.working;
  }

  private readonly told = ({ message }: Error): void => this.warn(`taps of the standby: ${message}`);

  private async findBridges(): Promise<void> {
    const { stdout } = await run("ip", ["-j", "link", "show"]);
    const links = JSON.parse(stdout) as { ifname: string; master?: string }[];
    const noted = this.note();
    for (const { tap } of this.nics) {
      const bridge = links.find(({ ifname }) => ifname === tap)?.master ?? noted[tap];
      if (bridge !== undefined) this.bridges.set(tap, bridge);
    }
    writeFileSync(this.noteFile, JSON.stringify(Object.fromEntries(this.bridges)));
  }

  private note(): Record<string, string> {
    try {
      return JSON.parse(readFileSync(this.noteFile, "utf8")) as Record<string, string>;
    } catch {
      return {};
    }
  }
}
