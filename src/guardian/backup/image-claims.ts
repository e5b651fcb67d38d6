/**
 * The images of a VM that is taken over, and others who have them. A standby that is refused an image is told
 * to run again, as long as nobody else has the VM: the lock of the old host, on storage that both have, may
 * last until that storage has given it up. A VM that runs beside somebody who may write to its image goes on,
 * and its operator hears of it.
 */
import { inUseByOthers, writtenWithOthers } from "../../hypervisor/qemu/image-locks.ts";
import { Alarm, type Told } from "../watch/alarm.ts";

const LOOK_EVERY_MS = 2_000;

export class ImageClaims {
  private readonly told: Told;
  private readonly alarm: Alarm;
  private readonly images: readonly string[];
  private readonly pid: number;
  private timer: NodeJS.Timeout | undefined;
  private runs = false;
  private over = false;

  /** @param pid QEMU's */
  constructor(told: Told, images: readonly string[], pid: number) {
    this.told = told;
    this.alarm = new Alarm(told, "disk");
    this.images = images;
    this.pid = pid;
  }

  /** QEMU does not let the VM run. */
  async refused(reason: string): Promise<void> {
    const who = await this.others();
    if (this.runs || this.over) return;
    const todo =
      who === ""
        ? "Look for who has its images, on this host or on the other; QEMU must be able to have them alone"
        : `${who}. End that, or take the image from it`;
    this.alarm.raise(
      `the VM cannot run here yet, and is told to again and again: ${reason}. ${todo}`,
      "error",
    );
  }

  /** The VM runs. Looks from time to time, until it has its images alone. */
  async running(): Promise<void> {
    this.runs = true;
    if (this.over) return;
    const shared = await writtenWithOthers(this.images, this.pid);
    if (this.over) return;
    if (shared.length === 0) {
      this.alarm.lower("the VM runs, and has its images");
      return;
    }
    const who = await this.others();
    if (this.over) return;
    if (who === "") {
      // QEMU does not lock them later, either.
      this.alarm.lower("nobody else has the VM's images any more");
      return;
    }
    this.alarm.raise(
      `the VM runs, and somebody else may write to its images: two that write destroy them. ${who}. End that at once`,
      "error",
    );
    this.timer = setTimeout(() => void this.running(), LOOK_EVERY_MS);
    this.timer.unref();
  }

  close(): void {
    this.over = true;
    clearTimeout(this.timer);
  }

  private async others(): Promise<string> {
    try {
      return (await inUseByOthers(this.images, this.pid)).join("; ");
    } catch (error) {
      this.told.log.warn(`looking for who has the VM's images: ${(error as Error).message}`);
      return "";
    }
  }
}
