/**
 * What the network has for the guest while it stands still, taken from its taps and given to them. A tap
 * whose QEMU goes away loses what waits in it; clients would send it again only when their timers run out, a
 * fifth of a second later.
 */
import { PacketSocket } from "../os/packet-socket.ts";

/** A frame for one of the guest's cards, with the virtio-net header before it. */
export interface InputFrame {
  /** Number of the card in `vm.nics`. */
  readonly nic: number;
  readonly frame: Uint8Array;
}

/** More than that is lost, as in a network that is full (I6). */
const MOST_KEPT_BYTES = 8 << 20;

/** The taps of a VM. None of them is needed: one that is gone or down has no frames, and takes none. */
export class GuestInput {
  private readonly sockets: readonly (PacketSocket | undefined)[];

  /**
   * From now on it sees what goes to the guest. Needs CAP_NET_RAW.
   * @param warn is told of each tap that it cannot see
   */
  constructor(taps: readonly string[], warn: (text: string) => void) {
    this.sockets = taps.map((tap) => {
      try {
        return new PacketSocket(tap);
      } catch (error) {
        warn(`${tap}: ${(error as Error).message}`);
        return undefined;
      }
    });
  }

  /**
   * The frames that were sent to the guest since it was asked last, card by card in their order. QEMU gets
   * them all the same.
   */
  take(): InputFrame[] {
    return this.sockets.flatMap((socket, nic) => {
      const frames: InputFrame[] = [];
      for (let frame = socket?.nextOutgoing(); frame !== undefined; frame = socket?.nextOutgoing())
        frames.push({ nic, frame });
      return frames;
    });
  }

  /** Gives a frame to the guest, behind what waits at its tap. */
  put({ frame, nic }: InputFrame): void {
    this.sockets[nic]?.send(frame);
  }

  close(): void {
    for (const socket of this.sockets) socket?.close();
  }
}

/** Frames that wait for a guest that does not run yet. */
export class KeptInput {
  private frames: InputFrame[] = [];
  private bytes = 0;

  keep(frame: InputFrame): void {
    if (this.bytes + frame.frame.length > MOST_KEPT_BYTES) return;
    this.bytes += frame.frame.length;
    this.frames.push(frame);
  }

  /** All of them, once. */
  take(): InputFrame[] {
    const { frames } = this;
    this.frames = [];
    this.bytes = 0;
    return frames;
  }
}
