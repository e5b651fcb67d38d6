/**
 * In a planned switchover what arrives for the paused VM goes after it: the old host watches the taps from
 * just before the pause and sends what comes to the new one, which gives it to the VM when it runs. Without
 * that every client that asks something in those milliseconds waits for its own timer.
 *
 * It is a help, not a promise: what cannot be forwarded is lost as on any network. A frame may come twice, if
 * the guest has read it just before the pause.
 */
import { GuestInput, type InputFrame } from "../../net/guest-input.ts";
import type { Log } from "../log.ts";

/** From one look at the taps to the next: nothing tells of a frame. */
const LOOK_EVERY_MS = 1;

export class InputForwarding {
  private readonly taps: readonly string[];
  private readonly log: Log;
  private input: GuestInput | undefined;
  private timer: NodeJS.Timeout | undefined;

  constructor(taps: readonly string[], log: Log) {
    this.taps = taps;
    this.log = log;
  }

  /** The VM is about to be paused for the other host. */
  watch(): void {
    if (this.input !== undefined || this.taps.length === 0) return;
    this.input = new GuestInput(this.taps, (text) =>
      this.log.warn(
        `what clients send during the switchover is not forwarded: ${text}. They send it again after a moment`,
      ),
    );
  }

  /** The other host has been asked to run it. `send` is called with each frame, until `stop`. */
  forward(send: (frame: InputFrame) => void): void {
    const look = () => {
      for (const frame of this.input?.take() ?? []) send(frame);
    };
    look();
    this.timer ??= setInterval(look, LOOK_EVERY_MS);
  }

  /** The VM runs again, here or there. */
  stop(): void {
    clearInterval(this.timer);
    this.timer = undefined;
    this.input?.close();
    this.input = undefined;
  }
}
