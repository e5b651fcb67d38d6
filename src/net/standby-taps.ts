/**
 * The taps of a VM that does not run here yet. They stay what and where they are: ports of their bridge with
 * all settings, up, and forwarding, so that nothing has to come back as it was, and no spanning tree has to
 * think about a port that comes back. But nobody reads them, so their queues fill with old broadcasts.
 *
 * When the primary goes silent they are emptied a little before anything is decided, so that what clients
 * send again in the meantime waits here for the guest instead of being lost: TCP would try the next time only
 * after twice as long. And the bridge is told that the guest is behind them: it has learnt the guest's
 * address on its uplink and would drop the frames.
 *
 * QEMU reads one frame of a tap ahead, long before its VM runs, and drops it when the state is loaded. So
 * where it had read none before, each card's first frame is given once more when the VM runs.
 *
 * What goes wrong here costs clients time. It is told and tried again, and never keeps the VM from running.
 */
import { closeSync, readSync } from "node:fs";
import { borrowTap } from "../os/borrowed-tap.ts";
import { forgetBehind, learnBehind } from "../os/bridge-port.ts";
import { networkLink, setUp } from "../os/network-link.ts";
import { MAX_FRAME_BYTES } from "../os/packet-socket.ts";
import { GuestInput, type InputFrame } from "./guest-input.ts";

export interface StandbyNic {
  readonly mac: string;
  readonly tap: string;
}

/**
 * A tap's queue has 500 to 1000 frames, if nobody has set it otherwise. A flood must not keep us here for
 * ever.
 */
const MOST_DRAINED = 1 << 14;
const AGAIN_MS = 200;

export class StandbyTaps {
  private readonly nics: readonly StandbyNic[];
  private readonly warn: (text: string) => void;
  /** Frames that each tap's process had read before the standby was started. */
  private readonly readBefore: readonly (bigint | undefined)[];
  private qemuPid: number | undefined;
  /** Frames for the guest are to come here. */
  private opened = false;
  private input: GuestInput | undefined;
  /** Cards of which QEMU had read a frame ahead when the taps were emptied. */
  private hadAhead: readonly boolean[] = [];
  /** What QEMU had read ahead, and has dropped. */
  private dropped: readonly InputFrame[] = [];
  private readonly told = new Set<string>();
  private retryTimer: NodeJS.Timeout | undefined;

  /** To be made before QEMU opens the taps. */
  constructor(nics: readonly StandbyNic[], warn: (text: string) => void) {
    this.nics = nics;
    this.warn = warn;
    this.readBefore = nics.map(({ tap }) => this.sentFrames(tap));
  }

  /** @param qemuPid whose taps they are */
  belongTo(qemuPid: number): void {
    this.qemuPid = qemuPid;
  }

  /** The guest is not here: its frames are not to be kept, and the bridge is to look for it elsewhere. */
  park(): void {
    this.opened = false;
    clearTimeout(this.retryTimer);
    this.input?.close();
    this.input = undefined;
    for (const { mac, tap } of this.nics)
      this.attempt(`${tap}: the bridge may look for the guest here`, () => forgetBehind(tap, mac));
  }

  /** What comes for the guest from now on waits for it. A tap that is down is set up. */
  open(): void {
    if (this.opened) return;
    this.opened = true;
    this.hadAhead = this.nics.map(({ tap }, nic) => {
      const before = this.readBefore[nic];
      return before === undefined || this.sentFrames(tap) !== before;
    });
    for (const { tap } of this.nics) {
      this.attempt(`${tap}: the guest gets what has piled up there first`, () => this.empty(tap));
    }
    this.watch();
    this.lead(this.nics);
  }

  /** QEMU has the VM's state. */
  loaded(): void {
    const seen = this.input?.take() ?? [];
    this.dropped = this.nics.flatMap((_, nic) =>
      this.hadAhead[nic] === true ? [] : (seen.find((frame) => frame.nic === nic) ?? []),
    );
  }

  /** The VM runs: it gets what QEMU has dropped, and `more`, which came for it elsewhere. */
  deliver(more: readonly InputFrame[]): void {
    this.watch();
    for (const frame of [...this.dropped, ...more]) this.input?.put(frame);
    this.dropped = [];
    this.input?.close();
    this.input = undefined;
  }

  /** No QEMU has the taps open any more. */
  restore(): void {
    this.park();
  }

  private watch(): void {
    if (this.input !== undefined || this.nics.length === 0) return;
    this.input = new GuestInput(
      this.nics.map(({ tap }) => tap),
      (text) => this.say(`frames that come before the VM runs may be lost: ${text}`),
    );
  }

  /** Has frames for the guest led to its taps; those that cannot have them yet are tried again. */
  private lead(nics: readonly StandbyNic[]): void {
    const left = nics.filter(
      ({ mac, tap }) => !this.attempt(`${tap}: frames for the guest may not find it`, () => lead(tap, mac)),
    );
    if (left.length === 0) return;
    this.retryTimer = setTimeout(() => this.lead(left), AGAIN_MS);
    this.retryTimer.unref();
  }

  /** Reads what lies in a tap's queue, by QEMU's own descriptor. */
  private empty(tap: string): void {
    if (this.qemuPid === undefined) return;
    const fd = borrowTap(this.qemuPid, tap);
    const frame = new Uint8Array(MAX_FRAME_BYTES);
    try {
      for (let count = 0; count < MOST_DRAINED; count++) readSync(fd, frame);
    } catch (error) {
      // QEMU's descriptors do not wait: nothing is left, or the tap is down.
      if (!["EAGAIN", "EBADFD"].includes((error as NodeJS.ErrnoException).code!)) throw error;
    } finally {
      closeSync(fd);
    }
  }

  private sentFrames(tap: string): bigint | undefined {
    let frames: bigint | undefined;
    this.attempt(tap, () => {
      frames = networkLink(tap)?.sentFrames;
    });
    return frames;
  }

  private attempt(what: string, step: () => void): boolean {
    try {
      step();
      return true;
    } catch (error) {
      this.say(`${what}: ${(error as Error).message}`);
      return false;
    }
  }

  /** The same is told once. */
  private say(text: string): void {
    if (this.told.has(text)) return;
    this.told.add(text);
    this.warn(`taps of the standby: ${text}`);
  }
}

function lead(tap: string, mac: string): void {
  const link = networkLink(tap);
  if (link === undefined) throw new Error(`there is no network device "${tap}"`);
  if (!link.up) setUp(link.index, tap);
  // Of another kind of switch, or of no port, there is nothing to be told: what QEMU announces must do.
  if (link.portState !== undefined) learnBehind(tap, mac);
}
